"""Blob store behind a URL of fsspec, such as s3://bucket/folder, with a verified cache in the home.

A blob has the same name as in a folder: sha256/ab/<64 hex>. It is written to the cache first, where it is hashed, and
then uploaded. A read downloads it once, and nothing enters the cache under a digest that its bytes do not have. Broken
connections and busy servers are tried again; a download continues where it stopped. Credentials come from the
environment that the file system's library reads, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL; never from the URL.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from registry.blobs import BlobWriter, LocalBlobStore, parse_digest
from registry.errors import IntegrityError, InvalidInputError, NotFoundError, StorageError
from registry.records import Digest, Leftover
from registry.store_users import UNKNOWN, Others, User

ATTEMPTS = 5  # consecutive failures without a new byte
FIRST_WAIT_SECONDS = 0.5
PIECE_BYTES = 8 * 2**20
_READ_ONLY = ("http", "https", "data", "github", "hf", "zip", "tar")
Result = TypeVar("Result")


class RemoteBlobStore:
    """Blob store at a URL, with a cache in a folder. `user` is the database that refers to the blobs."""

    def __init__(self, url: str, cache: Path, user: User | None = None) -> None:
        self.url, self._user = _checked(url), user
        self._cache = LocalBlobStore(cache)
        self._registered = False

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """Return the file system and the folder in it. Raises InvalidInputError if its library is not installed."""
        import fsspec

        try:
            system, folder = fsspec.core.url_to_fs(
                self.url, use_listings_cache=False, skip_instance_cache=True
            )
        except (ImportError, ValueError) as error:
            raise InvalidInputError(
                f"the store {self.url} cannot be used: {error}; for s3://, pip install 'nexusmix[s3]'"
            ) from error
        return system, folder.rstrip("/")

    @contextmanager
    def writer(self, expected_size: int | None = None) -> Iterator[BlobWriter]:
        """Open a writer of one blob, which is uploaded under its digest if the block ends without an exception.

        Raises StorageError if the disk or the upload fails; the store then has no unfinished blob.
        """
        with self._cache.writer(expected_size) as writer:
            yield writer
        self._upload(writer.digest)

    def put_bytes(self, data: bytes) -> Digest:
        """Store `data` and return its digest."""
        with self.writer(len(data)) as writer:
            writer.write(data)
        return writer.digest

    def path(self, digest: Digest, *, verify: bool = True) -> Path:
        """Return the path of the blob in the cache, after a download if needed.

        Raises NotFoundError if the store does not have it, IntegrityError if its bytes are wrong.
        """
        try:
            return self._cache.path(digest, verify=verify)
        except (NotFoundError, IntegrityError):  # never downloaded, or damaged on this disk
            self._download(digest)
            return self._cache.path(digest, verify=False)

    def rehash(self, digest: Digest) -> Path:
        """Return the path like `path`, but first hash the store's bytes again."""
        self.size(digest)
        state = hashlib.sha256()
        self._read(digest, state.update)
        if state.hexdigest() != digest.removeprefix("sha256:"):
            raise self._damaged(digest, state.hexdigest())
        return self.path(digest)

    def read_bytes(self, digest: Digest) -> bytes:
        """Return the whole blob, verified; for small blobs."""
        return self.path(digest).read_bytes()

    def size(self, digest: Digest) -> int:
        """Return the blob's size in bytes. Raises NotFoundError."""
        return int(self._info(digest)["size"])

    def modified(self, digest: Digest) -> float:
        """Return the time of the blob's upload, in seconds since the epoch. Raises NotFoundError."""
        info = self._info(digest)
        moment = next(
            (info[key] for key in ("LastModified", "last_modified", "mtime", "created") if key in info), 0.0
        )
        return float(moment.timestamp() if hasattr(moment, "timestamp") else moment)

    def exists(self, digest: Digest) -> bool:
        """Return whether the store has the blob; its bytes are not read."""
        try:
            self._info(digest)
        except NotFoundError:
            return False
        return True

    def iter_digests(self) -> Iterator[Digest]:
        """Yield every blob's digest, sorted."""
        for path in sorted(self._files("sha256")):
            digest = f"sha256:{path.rsplit('/', 1)[-1]}"
            try:
                yield parse_digest(digest)
            except InvalidInputError:  # a file of another program
                continue

    def delete(self, digest: Digest) -> None:
        """Remove the blob from the store and the cache."""
        system, _ = self._place
        name = self._name(digest)
        self._again(f"delete blob {digest}", lambda: system.rm_file(name) if system.exists(name) else None)
        self._cache.delete(digest)

    def sweep(self, older_than: float, *, dry_run: bool = False) -> list[Leftover]:
        """Remove unfinished blobs in the cache. The store has none: an upload appears only when it is complete."""
        return self._cache.sweep(older_than, dry_run=dry_run)

    def others(self) -> Others:
        """Return the other databases that keep blobs in this store."""
        if self._user is None:
            return Others()
        names = {path.rsplit("/", 1)[-1]: path for path in self._files("databases")}
        if not names:
            return Others(unknown=next(self.iter_digests(), None) is not None)
        is_unknown = names.pop(UNKNOWN, None) is not None
        names.pop(self._user.file_name, None)
        system, _ = self._place
        places = [
            self._again("read the users", partial(system.cat_file, path)).decode() for path in names.values()
        ]
        return Others(tuple(sorted(places)), is_unknown)

    def adopt(self) -> None:
        """Remove the records of all users except this store's own."""
        self._register()
        system, _ = self._place
        for path in self._files("databases"):
            if self._user is not None and path.rsplit("/", 1)[-1] != self._user.file_name:
                self._again("adopt the store", partial(system.rm_file, path))

    def __str__(self) -> str:
        return self.url

    def _register(self) -> None:
        """Record once that this database keeps blobs here; blobs without any record have unknown users."""
        if self._registered or self._user is None:
            return
        if not self._files("databases") and next(self.iter_digests(), None) is not None:
            self._write(f"databases/{UNKNOWN}", b"")
        self._write(f"databases/{self._user.file_name}", self._user.place.encode())
        self._registered = True

    def _write(self, name: str, content: bytes) -> None:
        system, folder = self._place
        self._again(f"write {name}", lambda: system.pipe_file(f"{folder}/{name}", content))

    def _upload(self, digest: Digest) -> None:
        """Upload a blob of the cache. An existing one is replaced, which repairs it and renews its time."""
        self._register()
        system, folder = self._place
        source, name = self._cache.path(digest, verify=False), self._name(digest)
        is_atomic = getattr(system, "protocol", "") in (("s3", "s3a"), ("gs", "gcs"), "memory")
        target = name if is_atomic else f"{folder}/tmp/{uuid.uuid4().hex}"

        def send() -> None:
            system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            system.put_file(str(source), target)
            if not is_atomic:
                system.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
                system.mv(target, name)
            sent = int(system.info(name)["size"])
            if sent != source.stat().st_size:
                raise OSError(f"the store received {sent:,} of {source.stat().st_size:,} bytes")

        self._again(f"upload blob {digest}", send)

    def _download(self, digest: Digest) -> None:
        size = self.size(digest)
        with self._cache.writer(size) as writer:
            self._read(digest, writer.write)
        if writer.digest != digest:
            self._cache.delete(writer.digest)
            raise self._damaged(digest, writer.digest)

    def _read(self, digest: Digest, take: Callable[[bytes], Any]) -> None:
        """Pass the blob's bytes to `take` in order. A broken download continues at the byte where it stopped."""
        system, _ = self._place
        name, size = self._name(digest), self.size(digest)
        done = failures = 0
        while done < size:
            try:
                piece = system.cat_file(name, start=done, end=min(size, done + PIECE_BYTES))
                if not piece:
                    raise OSError("the answer was empty")
            except FileNotFoundError as error:
                raise NotFoundError(f"blob {digest} is not in the store {self.url}") from error
            except Exception as error:
                failures += 1
                self._wait(f"download blob {digest}", error, failures)
                continue
            piece = piece[: size - done]
            take(piece)
            done, failures = done + len(piece), 0

    def _info(self, digest: Digest) -> dict[str, Any]:
        system, _ = self._place
        name = self._name(digest)

        def ask() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = system.info(name)
            except FileNotFoundError:
                return None
            return found

        info = self._again(f"look up blob {digest}", ask)
        if info is None:
            raise NotFoundError(f"blob {digest} is not in the store {self.url}")
        return info

    def _files(self, folder: str) -> list[str]:
        system, root = self._place

        def find() -> list[str]:
            try:
                return [str(path) for path in system.find(f"{root}/{folder}")]
            except FileNotFoundError:
                return []

        return self._again(f"list {folder}", find)

    def _name(self, digest: Digest) -> str:
        name = parse_digest(digest).removeprefix("sha256:")
        return f"{self._place[1]}/sha256/{name[:2]}/{name}"

    def _again(self, doing: str, work: Callable[[], Result]) -> Result:
        """Do the work, and again after a failure. Raises StorageError after ATTEMPTS failures."""
        failures = 0
        while True:
            try:
                return work()
            except Exception as error:  # each file system has errors of its own
                failures += 1
                self._wait(doing, error, failures)

    def _wait(self, doing: str, error: Exception, failures: int) -> None:
        if failures == ATTEMPTS or isinstance(error, PermissionError):
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise StorageError(f"cannot {doing} in the store {self.url}: {reason}") from error
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (failures - 1))

    def _damaged(self, digest: Digest, found: str) -> IntegrityError:
        return IntegrityError(
            f"blob {digest} is damaged in the store {self.url}: its bytes have the digest {found}; contribute the "
            "same files again to restore it"
        )


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise InvalidInputError(
            f"the store's URL {parts.scheme}://… contains credentials or options: give them in the environment, such "
            "as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        )
    if parts.scheme in _READ_ONLY or not (parts.netloc or parts.path.strip("/")):
        raise InvalidInputError(
            f"the store {parts.scheme}://{parts.hostname or ''} is not supported: give a folder, a file:// URL, or a "
            "URL of a file system that fsspec can write, such as s3://bucket/folder"
        )
    return url.rstrip("/")
