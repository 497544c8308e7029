"""Where unfinished work keeps its checkpoints, so that the same lock goes on where it was interrupted."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

from registry.home import Registry
from registry.records import Digest


def work_folder(registry: Registry, lock: Digest) -> Path:
    """The folder of all work on a lock; made if need be."""
    folder = registry.home / "work" / lock.removeprefix("sha256:")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def exclusive(folder: Path) -> FileLock:
    """Held by whoever works in the folder; freed by the death of its process."""
    return FileLock(folder / "lock")


def sweep(registry: Registry, older_than: float) -> list[Path]:
    """Remove folders in which nobody works and nothing was written for `older_than` seconds."""
    swept = []
    for folder in sorted((registry.home / "work").glob("*/")):
        if time.time() - _newest_write(folder) < older_than:
            continue
        try:
            with exclusive(folder).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue
        swept.append(folder)
    return swept


def _newest_write(folder: Path) -> float:
    """Seconds since the epoch; a file that vanishes meanwhile means that somebody works there: now."""
    try:
        paths = [Path(root, name) for root, _, names in os.walk(folder) for name in [*names, "."]]
        return max(path.stat().st_mtime for path in paths)
    except OSError:
        return time.time()
