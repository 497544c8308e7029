"""Unfinished work: folders that one process at a time works in, and how those of killed processes are found again.

Each folder has a lock file in home/work, wherever the folder is. Whoever works in the folder keeps the lock, and
the death of its process frees it. The file names a folder that is elsewhere, so that garbage collection finds it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from registry.home import Registry
from registry.records import Leftover

_LOCK = ".lock"
# Only folders of such names are ever removed outside home/work: a temporary one is a hidden sibling of its target.
PARTIAL, TRAINING = ".partial", ".training"


def work_folder(registry: Registry, name: str) -> Path:
    """Where the work of this name is kept inside the home; `occupied` makes the folder."""
    return registry.home / "work" / name


@contextmanager
def occupied(
    registry: Registry, folder: Path, *, keep: bool = False, on_wait: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Make a folder if need be and work in it alone; it is removed when the block ends, moved away or not.

    Others wait, after a call of their `on_wait`. With `keep` the folder stays when an exception leaves the block,
    so that the next one goes on there. Raises OSError where it cannot be made.
    """
    folder = folder.absolute()
    lock = _lock_of(registry, folder)
    with _held(lock, on_wait) as file:
        done = False
        try:
            _note(registry, folder, file)
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            done = True
        finally:
            if done or not keep:
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    lock.unlink(missing_ok=True)  # while it is held: see `_held`


def sweep(registry: Registry, older_than: float, *, dry_run: bool = False) -> list[Leftover]:
    """Remove folders in which nobody works and nothing was written for `older_than` seconds."""
    work = registry.home / "work"
    if not work.is_dir():
        return []
    names = {
        path.name.removesuffix(_LOCK) for path in work.iterdir() if path.is_dir() or path.suffix == _LOCK
    }
    limit = time.time() - older_than
    found = [_sweep_one(registry, work / name, limit, dry_run) for name in sorted(names)]
    return [leftover for leftover in found if leftover is not None]


def _sweep_one(registry: Registry, place: Path, limit: float, dry_run: bool) -> Leftover | None:
    lock = place.with_name(place.name + _LOCK)
    try:
        with _held(lock, None) as file:
            folder = place if place.is_dir() else _noted(registry, file)
            if folder is None or not folder.is_dir() or folder.is_symlink():
                if folder is None or folder.parent.exists() or folder.is_relative_to(registry.home):
                    lock.unlink()  # else its disk is not mounted now
                return None
            written, size = _last_write(folder)
            is_left = written <= limit
            if is_left and not dry_run:
                shutil.rmtree(folder)
            if folder == place or not folder.exists():
                lock.unlink()
            return Leftover(folder, size) if is_left else None
    except OSError:  # somebody works there, or it may not be removed by us
        return None


@contextmanager
def _held(lock: Path, on_wait: Callable[[], None] | None) -> Iterator[IO[str]]:
    """The lock file, open and locked; raises BlockingIOError where another has it and `on_wait` is None.

    A lock file may be removed while it is locked. So whoever gets a lock looks whether the file is still the one
    of that name: a lock on a removed file would keep nobody out.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is None:
                    raise
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_named(file, lock):
                yield file
                return


def _is_named(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock_of(registry: Registry, folder: Path) -> Path:
    work = registry.home / "work"
    if folder.parent == work:
        return work / f"{folder.name}{_LOCK}"
    return work / f"outside-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}{_LOCK}"


def _note(registry: Registry, folder: Path, file: IO[str]) -> None:
    """Write down which folder a lock is for, where its name does not say so."""
    if folder.parent == registry.home / "work":
        return
    file.truncate(0)
    json.dump({"home": str(registry.home.resolve()), "folder": str(folder)}, file)
    file.flush()
    os.fsync(file.fileno())


def _noted(registry: Registry, file: IO[str]) -> Path | None:
    """The folder that was written down; None if there is none of ours.

    In a copy of a home, the locks are free though the owners of what they name may live.
    """
    file.seek(0)
    try:
        note = json.loads(file.read())
        home, folder = note["home"], Path(note["folder"])
    except (ValueError, KeyError, TypeError):
        return None
    ours = folder.is_absolute() and folder.name.startswith(".") and folder.suffix in (PARTIAL, TRAINING)
    return folder if ours and home == str(registry.home.resolve()) else None


def _last_write(folder: Path) -> tuple[float, int]:
    """When something was last written in a folder, in seconds since the epoch, and the bytes of its files."""
    stats = [Path(root, name).lstat() for root, _, names in os.walk(folder) for name in [*names, "."]]
    return max(stat.st_mtime for stat in stats), sum(stat.st_blocks * 512 for stat in stats)
