"""Work folders: each is used by one process at a time, and folders of killed processes can be resumed or removed.

Each folder has a lock file in home/work, even if the folder is elsewhere. The process that uses the folder holds
the lock, which is released if the process dies. For a folder outside home/work, the lock file contains its path, so
that garbage collection finds it.
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
# Outside home/work, only hidden folders with these suffixes are removed: they are temporary siblings of their target.
PARTIAL, TRAINING = ".partial", ".training"


def work_folder(registry: Registry, name: str) -> Path:
    """Return the path of a named work folder in the home; `occupied` creates it."""
    return registry.home / "work" / name


@contextmanager
def occupied(
    registry: Registry, folder: Path, *, keep: bool = False, on_wait: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Create a folder if needed and lock it for the block; the folder is removed when the block ends.

    The block may move the folder away. Other processes call their `on_wait` and wait. With `keep`, the folder is
    kept if the block raises, so that the next process resumes there. Raises OSError if it cannot be created.
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
                    lock.unlink(missing_ok=True)  # while it is locked: see `_held`


def sweep(registry: Registry, older_than: float, *, dry_run: bool = False) -> list[Leftover]:
    """Remove folders that no process uses and to which nothing was written for `older_than` seconds."""
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
                    lock.unlink()  # otherwise its disk may not be mounted
                return None
            written, size = _last_write(folder)
            is_left = written <= limit
            if is_left and not dry_run:
                shutil.rmtree(folder)
            if folder == place or not folder.exists():
                lock.unlink()
            return Leftover(folder, size) if is_left else None
    except OSError:  # a process uses it, or we may not remove it
        return None


@contextmanager
def _held(lock: Path, on_wait: Callable[[], None] | None) -> Iterator[IO[str]]:
    """Open and lock the lock file; raises BlockingIOError if it is locked and `on_wait` is None.

    A lock file may be removed while it is locked, and a lock on a removed file protects nothing. So after locking,
    check that the path still refers to this file, and try again if not.
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
    """Write the folder's path into its lock file if the lock file's name does not give it."""
    if folder.parent == registry.home / "work":
        return
    file.truncate(0)
    json.dump({"home": str(registry.home.resolve()), "folder": str(folder)}, file)
    file.flush()
    os.fsync(file.fileno())


def _noted(registry: Registry, file: IO[str]) -> Path | None:
    """Return the folder recorded in the lock file; None if there is none or it belongs to another home.

    In a copy of a home the locks are free, but the processes that use the recorded folders may still run.
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
    """Return the time of the last write in a folder (seconds since the epoch) and the bytes of its files."""
    stats = [Path(root, name).lstat() for root, _, names in os.walk(folder) for name in [*names, "."]]
    return max(stat.st_mtime for stat in stats), sum(stat.st_blocks * 512 for stat in stats)
