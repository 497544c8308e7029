"""The blob store at a URL: cache, verification, retries and identity, on fsspec's file system in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from registry import remote_blobs
from registry.errors import IntegrityError, InvalidInputError, NotFoundError, StorageError
from registry.remote_blobs import RemoteBlobStore
from registry.store_users import Others, User

ME = User("one", "host:/one.db")


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty folder in memory; nothing waits between attempts, and pieces are small."""
    monkeypatch.setattr(remote_blobs, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(remote_blobs, "PIECE_BYTES", 4)
    folder = f"memory://{uuid4().hex}"
    yield folder
    MemoryFileSystem.store.clear()


@pytest.fixture
def store(url: str, tmp_path: Path) -> RemoteBlobStore:
    return RemoteBlobStore(url, tmp_path / "cache", ME)


@pytest.fixture
def other(url: str, tmp_path: Path) -> RemoteBlobStore:
    """The same store from another machine, with an empty cache."""
    return RemoteBlobStore(url, tmp_path / "other", ME)


def fail(
    monkeypatch: pytest.MonkeyPatch, method: str, faults: list[Callable[..., Any]]
) -> list[tuple[Any, ...]]:
    """Let the next calls of a method have these faults; return the calls' arguments."""
    calls: list[tuple[Any, ...]] = []
    real = getattr(MemoryFileSystem, method)

    def replaced(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append((*arguments, *options.values()))
        fault = faults.pop(0) if faults else real
        return fault(self, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, method, replaced)
    return calls


def busy(*_: Any, **__: Any) -> Any:
    raise OSError("429 Too Many Requests")


def test_a_blob_is_read_from_another_machine_under_its_digest(
    store: RemoteBlobStore, other: RemoteBlobStore
) -> None:
    digest = store.put_bytes(b"a blob of many pieces")
    assert other.exists(digest) and other.size(digest) == 21 and other.modified(digest) > 1e9
    assert other.path(digest).read_bytes() == other.read_bytes(digest) == b"a blob of many pieces"
    assert list(other.iter_digests()) == [digest]
    empty = store.put_bytes(b"")
    assert other.read_bytes(empty) == b""
    other.delete(digest)
    other.delete(digest)
    assert not store.exists(digest)
    with pytest.raises(NotFoundError):
        other.path(digest)


def test_a_blob_is_downloaded_once(store: RemoteBlobStore, other: RemoteBlobStore, monkeypatch: Any) -> None:
    digest = store.put_bytes(b"12345678")
    calls = fail(monkeypatch, "cat_file", [])
    for _ in range(3):
        other.path(digest)
    assert len(calls) == 2


def test_a_broken_download_continues_where_it_stopped(
    store: RemoteBlobStore, other: RemoteBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put_bytes(b"0123456789")

    def cut(self: Any, path: str, start: int, end: int) -> bytes:
        return b"45"  # half of what was asked for

    real = MemoryFileSystem.cat_file
    calls = fail(monkeypatch, "cat_file", [real, busy, cut, busy, lambda *_, **__: b""])
    assert other.read_bytes(digest) == b"0123456789"
    assert [call[1] for call in calls] == [0, 4, 4, 6, 6, 6]


@pytest.mark.parametrize("answer", [b"wrong!", b"longer than what was asked for"])
def test_wrong_bytes_never_enter_the_cache(
    store: RemoteBlobStore, other: RemoteBlobStore, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put_bytes(b"0123456789")
    with monkeypatch.context() as patch:
        fail(patch, "cat_file", [lambda *_, **__: answer] * 9)
        with pytest.raises(IntegrityError, match="contribute the same files again"):
            other.path(digest)
        with pytest.raises(IntegrityError):
            other.rehash(digest)
    assert list((other._cache.root).glob("sha256/*/*")) == []
    assert other.read_bytes(digest) == b"0123456789"


def test_a_damaged_blob_in_the_cache_is_downloaded_again(store: RemoteBlobStore) -> None:
    digest = store.put_bytes(b"0123456789")
    store.path(digest).write_bytes(b"damaged by the disk")
    assert store.read_bytes(digest) == b"0123456789"


def test_a_damaged_blob_in_the_store_is_found_and_repaired_by_storing_it_again(
    store: RemoteBlobStore, url: str
) -> None:
    digest = store.put_bytes(b"0123456789")
    name = next(name for name in MemoryFileSystem.store if "/sha256/" in name)
    MemoryFileSystem().pipe_file(name, b"012345678X")
    with pytest.raises(IntegrityError):
        store.rehash(digest)
    assert store.put_bytes(b"0123456789") == digest
    store.rehash(digest)


def test_a_store_that_stays_busy_or_truncates_is_a_storage_error_and_stores_nothing(
    store: RemoteBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls = fail(patch, "put_file", [busy] * 9)
        with pytest.raises(StorageError, match="429"):
            store.put_bytes(b"lost")
        assert len(calls) == remote_blobs.ATTEMPTS
    assert list(store.iter_digests()) == []
    with monkeypatch.context() as patch:
        fail(patch, "put_file", [lambda self, _source, target, **_: self.pipe_file(target, b"l")] * 9)
        with pytest.raises(StorageError, match="received 1 of 4"):
            store.put_bytes(b"lost")
    with monkeypatch.context() as patch:
        fail(patch, "put_file", [busy, busy])
        assert store.exists(store.put_bytes(b"kept"))


def test_every_database_that_stores_blobs_is_noted(store: RemoteBlobStore, url: str, tmp_path: Path) -> None:
    assert store.others() == Others()
    store.put_bytes(b"mine")
    assert store.others() == Others()
    stranger = RemoteBlobStore(url, tmp_path / "strange", User("two", "host:/two.db"))
    assert stranger.others() == Others(("host:/one.db",))
    stranger.put_bytes(b"theirs")
    assert store.others() == Others(("host:/two.db",))
    store.adopt()
    assert store.others() == Others()


def test_blobs_without_any_record_have_unknown_users(
    store: RemoteBlobStore, url: str, tmp_path: Path
) -> None:
    RemoteBlobStore(url, tmp_path / "old").put_bytes(b"old")
    assert store.others() == Others(unknown=True)
    store.put_bytes(b"new")
    assert store.others() == Others(unknown=True)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/folder",
        "https://example.org/blobs",
        "s3://",
        "s3://bucket?endpoint=x",
        "nothing://x/y",
    ],
)
def test_a_url_that_cannot_be_a_store_is_refused_without_its_secret(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        RemoteBlobStore(url, tmp_path, ME).put_bytes(b"")
    assert "secret" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")
