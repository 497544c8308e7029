"""Copies of experts between registries on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from publishing import add_expert, add_seed
from typer.testing import CliRunner

from registry.access import Actor
from registry.catalog import queries
from registry.catalog.copying import copy_expert
from registry.catalog.lifecycle import describe, get_readme
from registry.errors import AccessError, ConflictError, IntegrityError
from registry.home import Registry, open_registry
from ui.cli import app


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Registry]:
    """A registry with the expert law@1 and its README."""
    with open_registry(tmp_path / "source", embedder="hashing:16") as opened:
        add_seed(opened)
        add_expert(opened, "law")
        describe(opened, "law", tags=["legal"], authors=["Ada"], readme="# Law")
        yield opened


def test_a_copy_has_equal_digests_and_names_its_origin(source: Registry, any_registry: Registry) -> None:
    law = queries.get_expert(source, "law")
    made = copy_expert(source, any_registry, "law")
    assert (made.ffn, made.trunk, made.sample) == (law.ffn, law.trunk, law.sample)
    assert (made.tags, made.authors) == (("legal",), ("Ada",))
    assert made.provenance["copied_from"]["expert"] == "law@1"
    assert get_readme(any_registry, "law") == "# Law"
    there, here = queries.get_seed(any_registry, "base"), queries.get_seed(source, "base")
    assert replace(there, created_at=here.created_at) == here
    assert queries.verify(any_registry) == []
    assert copy_expert(source, any_registry, "law").ref == made.ref
    assert len(queries.list_versions(any_registry, "law")) == 1


def test_a_copy_gets_the_next_version_of_its_name(source: Registry, any_registry: Registry) -> None:
    copy_expert(source, any_registry, "law")
    add_expert(source, "law", ffn=source.blobs.put_bytes(b"newer"))
    assert copy_expert(source, any_registry, "law").ref == "law@2"


def test_a_copy_to_another_seed_of_the_name_is_refused(source: Registry, any_registry: Registry) -> None:
    add_seed(any_registry, ffn=any_registry.blobs.put_bytes(b"other weights"))
    with pytest.raises(ConflictError, match="another seed 'base'"):
        copy_expert(source, any_registry, "law")
    assert queries.list_experts(any_registry) == []


def test_a_damaged_or_withdrawn_expert_is_not_copied_and_a_reader_copies_nothing(
    source: Registry, any_registry: Registry
) -> None:
    with pytest.raises(AccessError):
        copy_expert(source, replace(any_registry, actor=Actor("bob", "reader")), "law")
    path = source.blobs.path(queries.get_expert(source, "law").ffn)
    path.write_bytes(b"X" * path.stat().st_size)
    with pytest.raises(IntegrityError):
        copy_expert(source, any_registry, "law")
    assert queries.list_experts(any_registry) == []
    queries.withdraw(source, "law", "a reason")
    with pytest.raises(IntegrityError, match="withdrawn"):
        copy_expert(source, any_registry, "law@1")


def test_the_command_copies_into_a_home_with_its_own_settings(
    source: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUSMIX_STORE_URL", str(source.home / "blobs"))
    other = tmp_path / "other"
    done = CliRunner().invoke(app, ["--home", str(source.home), "copy", "law", "--to", str(other), "--json"])
    assert done.exit_code == 0, done.output
    with open_registry(other, own_settings=True) as opened:
        assert opened.blobs.exists(queries.get_expert(opened, "law").ffn)
        assert str(opened.blobs) == str(other / "blobs")
