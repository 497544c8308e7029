"""Conversion of path arguments: strings or path objects, and a single path in place of a list."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PathLike = str | os.PathLike[str]
Paths = PathLike | Iterable[PathLike]


def as_path(path: PathLike) -> Path:
    """Return a Path with `~` replaced by the user's home."""
    return Path(path).expanduser()


def as_paths(paths: Paths) -> list[Path]:
    """Return a list of Paths; a single path becomes a list of one."""
    if isinstance(paths, str | os.PathLike):
        return [as_path(paths)]
    return [as_path(path) for path in paths]
