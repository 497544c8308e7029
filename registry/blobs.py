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
# Two writes within one tick of the file system's clock give the same mtime. So the verification of a file
# that was changed this recently is not cached: its next change could not be detected.
CLOCK_TICK_NS = 100_000_000

Signature = tuple[int, int, int]  # inode, size in bytes, mtime in ns


def parse_digest(text: str) -> Digest:
    """Return `text` if it is "sha256:" and 64 lower-case hex digits. Raises InvalidInputError otherwise."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise InvalidInputError(
            f"{str(text)[:100]!a} is not a digest: expected 'sha256:' and 64 lower-case hex digits"
        )
    return text


class BlobWriter:
    """Writes one blob and hashes it at the same time; `digest` is available after the `writer()` block."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        self._digest: Digest | None = None

    @property
    def digest(self) -> Digest:
        """Digest of the written bytes, which names the blob."""
        assert self._digest is not None, "the digest is known after the writer is closed"
        return self._digest

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes (any C-contiguous buffer) and return their number."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def close(self) -> None:
        """Flush the bytes to disk and compute the digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._digest = f"sha256:{self._hash.hexdigest()}"


class BlobStore(Protocol):
    """Operations that the registry needs from a blob store."""

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
    """Return the contents of small files by name, such as a seed's. Raises NotFoundError, IntegrityError."""
    return {name: blobs.read_bytes(digest) for name, digest in files.items()}


class LocalBlobStore:
    """Blob store in a folder: root/sha256/ab/<64 hex>, unfinished blobs in tmp/, damaged ones in quarantine/.

    `user` is the database that refers to the blobs; the store records every database that has stored blobs.
    """

    def __init__(self, root: Path, user: User | None = None) -> None:
        self.root = root
        self._users = StoreUsers(root, user)
        self._verified: dict[Digest, Signature] = {}

    @contextmanager
    def writer(self, expected_size: int | None = None) -> Iterator[BlobWriter]:
        """Open a writer of one blob, which is stored under its digest if the block ends without an exception.

        `expected_size` in bytes, if given, is first compared with the free space. Raises StorageError if the
        disk is full or fails; no unfinished blob is left.
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
            # an OSError for a file outside the store comes from the caller's block
            if error.filename is not None and not str(error.filename).startswith(str(self.root)):
                raise
            raise StorageError(f"cannot write a blob under {self.root}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def put_bytes(self, data: bytes) -> Digest:
        """Store `data` and return its digest."""
        with self.writer(len(data)) as writer:
            writer.write(data)
        return writer.digest

    def path(self, digest: Digest, *, verify: bool = True) -> Path:
        """Return the blob's path. Its bytes are hashed once per process, and again if the file has changed.

        Raises NotFoundError if it is missing. Raises IntegrityError if its bytes are wrong; the file is then
        moved to the quarantine folder.
        """
        path, stat = self._locate(digest)
        if verify and self._verified.get(digest) != signature(stat):
            return self.rehash(digest)
        return path

    def rehash(self, digest: Digest) -> Path:
        """Return the blob's path like `path`, but always hash its bytes again."""
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
                f"blob {digest} is damaged: its bytes have the digest {found}; they are kept at {kept}: "
                "contribute the same files again to restore it"
            )
        if time.time_ns() - before.st_mtime_ns > CLOCK_TICK_NS:
            self._verified[digest] = signature(before)
        return path

    def read_bytes(self, digest: Digest) -> bytes:
        """Return the whole blob, verified; for small blobs."""
        return self.path(digest).read_bytes()

    def size(self, digest: Digest) -> int:
        """Return the blob's size in bytes. Raises NotFoundError."""
        return self._locate(digest)[1].st_size

    def modified(self, digest: Digest) -> float:
        """Return the time of the blob's last write, in seconds since the epoch. Raises NotFoundError."""
        return self._locate(digest)[1].st_mtime

    def exists(self, digest: Digest) -> bool:
        """Return whether the blob is in the store; its bytes are not read."""
        return self._target(parse_digest(digest)).is_file()

    def iter_digests(self) -> Iterator[Digest]:
        """Yield every blob's digest, sorted."""
        for path in sorted((self.root / "sha256").glob("??/*")):
            if _HEX.fullmatch(path.name):
                yield f"sha256:{path.name}"

    def delete(self, digest: Digest) -> None:
        """Remove the blob if it is in the store."""
        self._verified.pop(digest, None)
        try:
            self._target(parse_digest(digest)).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot delete blob {digest}: {error.strerror or error}") from error

    def sweep(self, older_than: float, *, dry_run: bool = False) -> list[Leftover]:
        """Remove unfinished blobs in root/tmp that were not written to for `older_than` seconds."""
        limit = time.time() - older_than
        swept = []
        for path in sorted((self.root / "tmp").glob("*.part")):
            try:
                stat = path.stat()
                if stat.st_mtime > limit:
                    continue
                if not dry_run:
                    path.unlink()
            except FileNotFoundError:  # its writer has finished
                continue
            swept.append(Leftover(path, stat.st_size))
        return swept

    def others(self) -> Others:
        """Return the other databases that keep blobs in this store."""
        try:
            return self._users.others()
        except OSError as error:
            raise StorageError(
                f"cannot read the users of the store {self.root}: {error.strerror or error}"
            ) from error

    def adopt(self) -> None:
        """Remove the records of all users except this store's own."""
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
                f"{self.root} has {free:,} bytes free, but {size:,} are needed: free some space first"
            )

    def _adopt(self, temporary: Path, digest: Digest) -> None:
        """Move a complete file to its final name, durably.

        An existing blob is replaced. This repairs a damaged blob and renews its modification time. So the
        caller has the whole grace period of garbage collection to publish a row that refers to it.
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
            # a writer may have replaced the file with the right bytes during the hashing
            if path.stat().st_ino == seen.st_ino:
                path.rename(kept)
        except OSError:  # a read-only store: the caller still reports the damage
            return path
        return kept


def signature(stat: os.stat_result) -> Signature:
    """Return a signature that changes with a file's bytes, unless two changes occur in one clock tick."""
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
