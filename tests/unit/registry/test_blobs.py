"""The artifact store: atomic writes, verified reads, no remaining temporary files."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import publishing
import pytest
import warm_process

from registry.blobs import LocalBlobStore, parse_digest
from registry.errors import IntegrityError, InvalidInputError, NotFoundError, StorageError
from registry.records import Leftover

CONTENT = b"the bytes of a blob" * 1000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


def files_in(store: LocalBlobStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def set_age(path: Path, seconds: float) -> None:
    modified = path.stat().st_mtime - seconds
    os.utime(path, (modified, modified))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_blob_is_named_by_its_sha256(store: LocalBlobStore) -> None:
    with store.writer() as writer:
        for start in range(0, len(CONTENT), 999):
            writer.write(memoryview(CONTENT)[start : start + 999])
    assert (writer.digest, writer.size) == (DIGEST, len(CONTENT))
    assert store.put_bytes(CONTENT) == DIGEST
    assert store.read_bytes(DIGEST) == CONTENT
    assert store.size(DIGEST) == len(CONTENT)
    assert list(store.iter_digests()) == [DIGEST]
    assert files_in(store) == [store.root / "sha256" / DIGEST[7:9] / DIGEST[7:]]


@pytest.mark.parametrize(
    "text", ["", DIGEST[7:], DIGEST.upper(), DIGEST[:-1], DIGEST + "\n", "sha256:../../x", None]
)
def test_a_digest_of_the_wrong_form_is_refused_where_it_enters(store: LocalBlobStore, text: str) -> None:
    for use in (parse_digest, store.path, store.exists, store.size, store.delete):
        with pytest.raises(InvalidInputError, match="64 lower-case hex"):
            use(text)


def test_an_absent_blob_is_not_found(store: LocalBlobStore) -> None:
    assert not store.exists(DIGEST)
    with pytest.raises(NotFoundError, match=DIGEST):
        store.read_bytes(DIGEST)


def test_an_exception_while_writing_leaves_nothing(store: LocalBlobStore) -> None:
    with pytest.raises(RuntimeError, match="changed my mind"), store.writer() as writer:
        writer.write(CONTENT)
        raise RuntimeError("changed my mind")
    assert files_in(store) == []


def test_an_unreadable_source_is_not_blamed_on_the_store(store: LocalBlobStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), store.writer():
        (tmp_path / "absent").read_bytes()
    assert files_in(store) == []


def test_a_blob_larger_than_the_free_space_is_refused_before_it_is_written(store: LocalBlobStore) -> None:
    with pytest.raises(StorageError, match="free some space"), store.writer(2**62):
        pytest.fail("the writer opened although there is no space")
    assert files_in(store) == []


def test_a_disk_that_refuses_more_bytes_leaves_nothing(store: LocalBlobStore) -> None:
    script = """
import resource, sys
from pathlib import Path
from registry.blobs import LocalBlobStore
from registry.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    LocalBlobStore(Path(sys.argv[1])).put_bytes(b"x" * 100_000)
except StorageError as error:
    print(error)
"""
    out, error = warm_process.start(script, str(store.root)).communicate()
    assert out.startswith("cannot write a blob under"), error
    assert files_in(store) == []


def test_a_flipped_byte_is_found_on_reading_and_quarantined(store: LocalBlobStore) -> None:
    store.put_bytes(CONTENT)
    path = store.path(DIGEST)
    flip_byte(path)
    with pytest.raises(IntegrityError, match=DIGEST):
        store.path(DIGEST)
    assert not store.exists(DIGEST)
    assert [kept.parent.name for kept in files_in(store)] == ["quarantine"]


def test_a_blob_that_was_verified_long_ago_is_verified_again_once_it_changes(store: LocalBlobStore) -> None:
    store.put_bytes(CONTENT)
    set_age(store.path(DIGEST), 60)
    assert store.path(DIGEST) == store.path(DIGEST)
    flip_byte(store.path(DIGEST))
    with pytest.raises(IntegrityError):
        store.path(DIGEST)


def test_rehash_does_not_trust_an_earlier_verification(store: LocalBlobStore) -> None:
    store.put_bytes(CONTENT)
    set_age(store.path(DIGEST, verify=False), 60)
    path = store.path(DIGEST)
    before = path.stat()
    flip_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # damage without a change of the time stamp
    assert store.path(DIGEST) == path
    with pytest.raises(IntegrityError):
        store.rehash(DIGEST)


def test_storing_the_same_bytes_again_heals_a_damaged_blob(store: LocalBlobStore) -> None:
    store.put_bytes(CONTENT)
    flip_byte(store.path(DIGEST, verify=False))
    store.put_bytes(CONTENT)
    assert store.read_bytes(DIGEST) == CONTENT


def test_a_writer_killed_before_the_rename_leaves_only_a_file_that_the_sweep_removes(
    store: LocalBlobStore,
) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from registry.blobs import LocalBlobStore
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
LocalBlobStore(Path(sys.argv[1])).put_bytes(b"never seen")
"""
    process = warm_process.start(script, str(store.root))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(store.iter_digests()) == []
    [left] = files_in(store)
    assert store.sweep(older_than=3600) == []
    set_age(left, 7200)
    assert store.sweep(older_than=3600, dry_run=True) == [Leftover(left, len(b"never seen"))]
    assert left.exists()
    assert [leftover.path for leftover in store.sweep(older_than=3600)] == [left]
    assert files_in(store) == []


def test_several_processes_store_the_same_bytes_at_once(store: LocalBlobStore) -> None:
    imports = "from pathlib import Path; from registry.blobs import LocalBlobStore"
    body = "print(LocalBlobStore(Path(sys.argv[1])).put_bytes(b'shared' * 100_000))"
    [digest] = set(publishing.race(imports, body, 4, str(store.root)))
    assert store.read_bytes(digest) == b"shared" * 100_000
    assert len(files_in(store)) == 1
