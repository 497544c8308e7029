"""The artifact store: files named by their sha256, written atomically and verified when read."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

from registry.errors import IntegrityError, InvalidInputError, NotFoundError, StorageError
from registry.records import Digest, Leftover
from registry.store_users import Others, StoreUsers, User

CHUNK_BYTES = 4 * 2**20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")
# Two writes within one tick of the file system's clock leave the same mtime, so a file changed this
# recently is not yet told apart from its next change and its verification is not remembered.
CLOCK_TICK_NS = 100_000_000

Signature = tuple[int, int, int]  # inode, size in bytes, mtime in ns


def parse_digest(text: str) -> Digest:
    """Return `text` if it is "sha256:" and 64 lower-case hex digits. Raises InvalidInputError otherwise."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise InvalidInputError(
            f"{str(text)[:100]!a} is no digest: expected 'sha256:' and 64 lower-case hex digits"
        )
    return text


class BlobWriter:
    """Writes one blob, hashing as it goes; `digest` and `size` (bytes) are known once `writer()` is left."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        self._digest: Digest | None = None

    @property
    def digest(self) -> Digest:
        """The blob's name."""
        assert self._digest is not None, "the digest is known after the writer is closed"
        return self._digest

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes (any C-contiguous buffer); returns how many."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def close(self) -> None:
        """Bring the bytes to the disk and fix the digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._digest = f"sha256:{self._hash.hexdigest()}"


class BlobStore(Protocol):
    """What the registry asks of a store of blobs."""

    def writer(self, expected_size: int | None = None) -> AbstractContextManager[BlobWriter]: ...
    def put_bytes(self, data: bytes) -> Digest: ...
    def path(self, digest: Digest, *, verify: bool = True) -> Path: ...
    def rehash(self, digest: Digest) -> Path: ...
    def read_bytes(self, digest: Digest) -> bytes: ...
    def size(self, digest: Digest) -> int: ...
    def modified(self, digest: Digest) -> float: ...
    def exists(self, digest: Digest) -> bool: ...
    def iter_digests(self) -> Iterator[Digest]: ...
    def delete(self, digest: Digest) -> None: ...
    def sweep(self, older_than: float, *, dry_run: bool = False) -> list[Leftover]: ...
    def others(self) -> Others: ...
    def adopt(self) -> None: ...


def read_files(blobs: BlobStore, files: Mapping[str, Digest]) -> dict[str, bytes]:
    """The contents of small files by name, such as a seed's. Raises NotFoundError, IntegrityError."""
    return {name: blobs.read_bytes(digest) for name, digest in files.items()}


class LocalBlobStore:
    """Blobs in a folder: root/sha256/ab/<64 hex>, unfinished ones in tmp/, wrong ones in quarantine/.

    `user` is the database that refers to the blobs: the store remembers every one that ever put some.
    """

    def __init__(self, root: Path, user: User | None = None) -> None:
        self.root = root
        self._users = StoreUsers(root, user)
        self._verified: dict[Digest, Signature] = {}

    @contextmanager
    def writer(self, expected_size: int | None = None) -> Iterator[BlobWriter]:
        """Write one blob; it appears under its digest when the block ends without an exception.

        `expected_size` in bytes, where known, is checked against the free space first. Raises StorageError
        when the disk is full or fails; nothing but a blob already complete is left behind.
        """
        temporary = self.root / "tmp" / f"{uuid.uuid4().hex}.part"
        try:
            self._require_space(expected_size)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                writer = BlobWriter(file)
                yield writer
                writer.close()
            self._adopt(temporary, writer.digest)
        except OSError as error:
            # an OSError of the caller's own reading names another file, and is not the store's to explain
            if error.filename is not None and not str(error.filename).startswith(str(self.root)):
                raise
            raise StorageError(f"cannot write a blob under {self.root}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def put_bytes(self, data: bytes) -> Digest:
        """Store `data`."""
        with self.writer(len(data)) as writer:
            writer.write(data)
        return writer.digest

    def path(self, digest: Digest, *, verify: bool = True) -> Path:
        """Where the blob lies; its bytes are hashed once per process, and again when the file has changed.

        Raises NotFoundError when it is missing, IntegrityError when its bytes are wrong (it is then moved to
        the quarantine folder).
        """
        path, stat = self._locate(digest)
        if verify and self._verified.get(digest) != signature(stat):
            return self.rehash(digest)
        return path

    def rehash(self, digest: Digest) -> Path:
        """Like `path`, but hashes the bytes whatever was verified before."""
        path, _stat = self._locate(digest)
        try:
            with path.open("rb") as file:
                before = os.fstat(file.fileno())
                found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        except OSError as error:
            raise StorageError(f"cannot read blob {digest} at {path}: {error.strerror or error}") from error
        if found != digest:
            self._verified.pop(digest, None)
            kept = self._quarantine(path, before)
            raise IntegrityError(
                f"blob {digest} holds the bytes of {found}; they are kept at {kept}: "
                "contribute the same files again to restore it"
            )
        if time.time_ns() - before.st_mtime_ns > CLOCK_TICK_NS:
            self._verified[digest] = signature(before)
        return path

    def read_bytes(self, digest: Digest) -> bytes:
        """The whole blob, verified; for small blobs."""
        return self.path(digest).read_bytes()

    def size(self, digest: Digest) -> int:
        """Size in bytes. Raises NotFoundError."""
        return self._locate(digest)[1].st_size

    def modified(self, digest: Digest) -> float:
        """When the blob was last put, in seconds since the epoch. Raises NotFoundError."""
        return self._locate(digest)[1].st_mtime

    def exists(self, digest: Digest) -> bool:
        """Whether the blob is here (its bytes are not read)."""
        return self._target(parse_digest(digest)).is_file()

    def iter_digests(self) -> Iterator[Digest]:
        """Every blob's digest, in order."""
        for path in sorted((self.root / "sha256").glob("??/*")):
            if _HEX.fullmatch(path.name):
                yield f"sha256:{path.name}"

    def delete(self, digest: Digest) -> None:
        """Remove the blob, if it is here."""
        self._verified.pop(digest, None)
        try:
            self._target(parse_digest(digest)).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot delete blob {digest}: {error.strerror or error}") from error

    def sweep(self, older_than: float, *, dry_run: bool = False) -> list[Leftover]:
        """Remove what killed writers left in root/tmp and no one has written to for `older_than` seconds."""
        limit = time.time() - older_than
        swept = []
        for path in sorted((self.root / "tmp").glob("*.part")):
            try:
                stat = path.stat()
                if stat.st_mtime > limit:
                    continue
                if not dry_run:
                    path.unlink()
            except FileNotFoundError:  # its writer finished meanwhile
                continue
            swept.append(Leftover(path, stat.st_size))
        return swept

    def others(self) -> Others:
        """The databases other than this store's user that keep blobs here."""
        try:
            return self._users.others()
        except OSError as error:
            raise StorageError(
                f"cannot read who uses the store {self.root}: {error.strerror or error}"
            ) from error

    def adopt(self) -> None:
        """Forget all users but this store's own."""
        try:
            self._users.adopt()
        except OSError as error:
            raise StorageError(f"cannot adopt the store {self.root}: {error.strerror or error}") from error

    def __str__(self) -> str:
        return str(self.root)

    def _target(self, digest: Digest) -> Path:
        name = digest.removeprefix("sha256:")
        return self.root / "sha256" / name[:2] / name

    def _locate(self, digest: Digest) -> tuple[Path, os.stat_result]:
        path = self._target(parse_digest(digest))
        try:
            return path, path.stat()
        except FileNotFoundError as error:
            raise NotFoundError(f"blob {digest} is not in the store {self.root}") from error
        except OSError as error:
            raise StorageError(f"cannot read blob {digest} at {path}: {error.strerror or error}") from error

    def _require_space(self, size: int | None) -> None:
        if size is None:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if size > free:
            raise StorageError(
                f"{self.root} has {free:,} bytes free, {size:,} are needed: free some space first"
            )

    def _adopt(self, temporary: Path, digest: Digest) -> None:
        """Give a complete file its name, durably.

        A blob that is already there is replaced: that heals a damaged one, and renews its age, so that
        garbage collection gives the caller the whole grace period to publish what refers to it.
        """
        self._users.register()
        target = self._target(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            _fsync_folder(target.parent.parent)
        temporary.replace(target)
        _fsync_folder(target.parent)

    def _quarantine(self, path: Path, seen: os.stat_result) -> Path:
        kept = self.root / "quarantine" / f"{path.name}.{time.time_ns()}"
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            # a writer may have put the right bytes in place while the wrong ones were hashed
            if path.stat().st_ino == seen.st_ino:
                path.rename(kept)
        except OSError:  # a read-only store: the damage is still to be reported, as what it is
            return path
        return kept


def signature(stat: os.stat_result) -> Signature:
    """What changes with a file's bytes, unless two changes fall into one tick of the clock."""
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
