"""Record of the databases that keep blobs in a store. Garbage collection by one would delete blobs of the others.

Each database has a file root/databases/<hash>, created with its first blob. The hash is computed from the database's
permanent id and its location relative to the store. So a copy of a database with its store is the same user of the
copied store. A copy of a database alone is another user.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "unknown"


@dataclass(frozen=True)
class User:
    """A database: its id, and its location as text."""

    id: str
    place: str

    @property
    def file_name(self) -> str:
        """File name, which is equal only for equal users."""
        return hashlib.sha256(f"{self.id}\n{self.place}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Others:
    """Locations of other databases that keep blobs in a store, and whether it may contain blobs of unknown users."""

    places: tuple[str, ...] = ()
    unknown: bool = False


class StoreUsers:
    """Users of the store in a folder, from the view of the user `me`; nothing is recorded if `me` is None."""

    def __init__(self, root: Path, me: User | None) -> None:
        self._root, self._folder, self._me = root, root / "databases", me
        self._registered = False

    def register(self) -> None:
        """Record once that this database keeps blobs here. Raises OSError."""
        if self._registered or self._me is None:
            return
        if not self._folder.is_dir():
            self._found()
        file = self._folder / self._me.file_name
        if not file.exists():
            _write(file, self._me.place)
        self._registered = True

    def others(self) -> Others:
        """Return the other users of this store. Raises OSError."""
        if self._me is None:
            return Others()
        files = {path.name: path for path in self._folder.glob("*") if not path.name.startswith(".")}
        if not files:
            return Others(unknown=self._has_blobs())
        is_unknown = files.pop(UNKNOWN, None) is not None
        files.pop(self._me.file_name, None)
        return Others(tuple(sorted(path.read_text(encoding="utf-8") for path in files.values())), is_unknown)

    def adopt(self) -> None:
        """Remove the records of all other users. Raises OSError."""
        self.register()
        for path in self._folder.glob("*"):
            if self._me is not None and path.name != self._me.file_name:
                path.unlink(missing_ok=True)

    def _found(self) -> None:
        """Create the folder atomically; blobs that are already there have unknown users."""
        made = self._root / f".databases.{uuid.uuid4().hex}"
        made.mkdir(parents=True)
        try:
            if self._has_blobs():
                _write(made / UNKNOWN, "")
            else:
                assert self._me is not None, "only a user founds"
                _write(made / self._me.file_name, self._me.place)
            made.rename(self._folder)
        except OSError:
            if not self._folder.is_dir():  # otherwise another process was faster
                raise
        finally:
            for path in made.glob("*"):
                path.unlink()
            if made.exists():
                made.rmdir()

    def _has_blobs(self) -> bool:
        return next((self._root / "sha256").glob("??/*"), None) is not None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
