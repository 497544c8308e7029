"""Cells: one measured case and random seed each, a JSON file that is there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composer.errors import RecipeError


class Cells:
    """The measured cells of a run, in one folder. What is there is never written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, case: str, random_seed: int | None = None) -> Path:
        """Where a cell stands; without a random seed, one that no chance has a part in."""
        return self.folder / (f"{case}.json" if random_seed is None else f"{case}~{random_seed}.json")

    def read(self, case: str, random_seed: int | None = None) -> dict[str, Any] | None:
        """A cell, or None if it was not measured yet. Raises RecipeError for a file that is no cell."""
        path = self.path(case, random_seed)
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RecipeError(f"{path} is no measured cell ({error}): remove it and run again") from error

    def write(self, case: str, random_seed: int | None, cell: Mapping[str, Any]) -> None:
        """Store a cell atomically."""
        write_json(self.path(case, random_seed), cell)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
