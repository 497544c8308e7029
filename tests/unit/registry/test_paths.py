"""Paths can be strings or path objects, and a single path can replace a list."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.domains.reading import read_documents
from registry.home import open_registry
from registry.paths import as_path, as_paths


@pytest.mark.parametrize("given", ["a.txt", Path("a.txt"), ["a.txt"], (Path("a.txt"),)])
def test_one_path_is_a_list_of_one(given: object) -> None:
    assert as_paths(given) == [Path("a.txt")]  # type: ignore[arg-type]


def test_a_tilde_is_the_users_home() -> None:
    assert as_path("~/a") == Path.home() / "a"


def test_documents_are_read_from_a_string(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("some text")
    assert list(read_documents(str(file))) == ["some text"]


def test_a_registry_opens_from_a_string_and_closes_with_its_block(tmp_path: Path) -> None:
    with open_registry(str(tmp_path / "home"), embedder="hashing:16") as registry:
        assert registry.home == tmp_path / "home"
        pool = registry.engine.pool
    assert registry.engine.pool is not pool
