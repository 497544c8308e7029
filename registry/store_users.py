"""Which databases keep blobs in a store: garbage collection by one would delete what the others refer to.

Each database has a file root/databases/<number>, made with its first blob. The number is drawn from the database's
id, which never changes, and its place, seen from the store: a copy of a database and its store together is the
same user of its own store, a copy of a database alone is another user.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class User:
    """A database: its id, and its place in words."""

    id: str
    place: str

    @property
    def file_name(self) -> str:
        """Equal for equal users only."""
        return hashlib.sha256(f"{self.id}\n{self.place}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Others:
    """Other databases that keep blobs in a store, by their places; and whether blobs of unknown users are there."""

    places: tuple[str, ...] = ()
    unknown: bool = False


class StoreUsers:
    """The users of the store in a folder, as one of them sees it; without a user of its own it keeps no note."""

    def __init__(self, root: Path, me: User | None) -> None:
        self._root, self._folder, self._me = root, root / "databases", me
        self._registered = False

    def register(self) -> None:
        """Note, once, that this database keeps blobs here. Raises OSError."""
        if self._registered or self._me is None:
            return
        if not self._folder.is_dir():
            self._found()
        file = self._folder / self._me.file_name
        if not file.exists():
            _write(file, self._me.place)
        self._registered = True

    def others(self) -> Others:
        """Who else keeps blobs here. Raises OSError."""
        if self._me is None:
            return Others()
        files = {path.name: path for path in self._folder.glob("*") if not path.name.startswith(".")}
        if not files:
            return Others(unknown=self._has_blobs())
        is_unknown = files.pop(_UNKNOWN, None) is not None
        files.pop(self._me.file_name, None)
        return Others(tuple(sorted(path.read_text(encoding="utf-8") for path in files.values())), is_unknown)

    def adopt(self) -> None:
        """Forget all other users. Raises OSError."""
        self.register()
        for path in self._folder.glob("*"):
            if self._me is not None and path.name != self._me.file_name:
                path.unlink(missing_ok=True)

    def _found(self) -> None:
        """Make the folder, in one step: blobs of an older version are there before it, of whichever database."""
        made = self._root / f".databases.{uuid.uuid4().hex}"
        made.mkdir(parents=True)
        try:
            if self._has_blobs():
                _write(made / _UNKNOWN, "")
            else:
                assert self._me is not None, "only a user founds"
                _write(made / self._me.file_name, self._me.place)
            made.rename(self._folder)
        except OSError:
            if not self._folder.is_dir():  # else another process was faster
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
