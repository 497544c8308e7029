"""The digest of an embedder's weights is remembered, and computed again when the file changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from registry.domains import weights_digest
from registry.domains.weights_digest import weights_sha256

OLD = 1_700_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # the time of change of a new file is now, and such a file is not remembered
    monkeypatch.setattr(weights_digest, "CLOCK_TICK_NS", -1)
    return tmp_path / "cache" / "nexusmix" / "weights.json"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    expected = weights_sha256(weights)
    assert expected == sha256(weights)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert weights_sha256(weights) == expected


def test_a_changed_file_is_hashed_again_even_with_its_old_size_and_time(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    os.utime(weights, (OLD, OLD))
    weights_sha256(weights)
    weights.write_bytes(b"two")
    os.utime(weights, (OLD, OLD))
    assert weights_sha256(weights) == sha256(weights)


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(weights_digest, "CLOCK_TICK_NS", 10**18)
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    assert weights_sha256(weights) == sha256(weights)
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 1}', b"\xff"])
def test_a_damaged_cache_is_replaced(tmp_path: Path, cache: Path, content: bytes) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    assert weights_sha256(weights) == sha256(weights)
    assert sha256(weights) in cache.read_text()


def test_the_file_is_hashed_where_no_cache_can_be_written(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    assert weights_sha256(weights) == sha256(weights)
