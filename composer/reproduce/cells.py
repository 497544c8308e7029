"""Cells: each is the measurement of one case with one random seed, stored as a JSON file that is never partial."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composer.errors import RecipeError


class Cells:
    """The measured cells of a run, in one folder. A stored cell is never measured again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, case: str, random_seed: int | None = None) -> Path:
        """Return the path of a cell; without a random seed for cells that do not depend on one."""
        return self.folder / (f"{case}.json" if random_seed is None else f"{case}~{random_seed}.json")

    def read(self, case: str, random_seed: int | None = None) -> dict[str, Any] | None:
        """Return a cell, or None if it is not measured yet. Raises RecipeError if the file is not a valid cell."""
        path = self.path(case, random_seed)
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RecipeError(f"{path} is not a measured cell ({error}): remove it and run again") from error

    def write(self, case: str, random_seed: int | None, cell: Mapping[str, Any]) -> None:
        """Store a cell atomically."""
        write_json(self.path(case, random_seed), cell)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
