"""Copies of experts between registries on both databases."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from publishing import add_expert, add_mix, add_seed
from typer.testing import CliRunner

from registry.access import Actor
from registry.catalog import copying, queries
from registry.catalog.copying import copy_expert, copy_mix
from registry.catalog.deletion import delete_mix
from registry.catalog.gc import collect
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


@pytest.fixture
def blend(source: Registry) -> str:
    """A mix of law@2 and math@1 that extends another mix, with an evaluation."""
    add_expert(source, "law", ffn=source.blobs.put_bytes(b"newer"))
    add_expert(source, "math")
    first = add_mix(source, "first", experts=["law@2"])
    made = add_mix(source, experts=["law@2", "math"], parent=first.ref)
    queries.record_evaluation(source, made.ref, {"bits": 1})
    return made.ref


def test_a_copied_mix_has_its_experts_and_parent_with_equal_versions_and_digests(
    source: Registry, any_registry: Registry, blend: str
) -> None:
    mix = queries.get_mix(source, blend)
    made = copy_mix(source, any_registry, blend)
    assert replace(made, created_at=mix.created_at) == mix
    assert queries.get_mix(any_registry, "first").experts == ("law@2",)
    here, there = (queries.get_expert(each, "law@2") for each in (source, any_registry))
    assert (there.ffn, there.trunk) == (here.ffn, here.trunk)
    assert queries.verify(any_registry) == []
    assert copy_mix(source, any_registry, blend).ref == made.ref
    collect(any_registry, grace=timedelta(0))
    assert queries.verify(any_registry) == []


def test_a_mix_is_copied_without_its_deleted_parent(
    source: Registry, any_registry: Registry, blend: str
) -> None:
    delete_mix(source, "first@1")
    assert copy_mix(source, any_registry, blend).parent is None


def test_a_mix_is_not_copied_where_another_expert_has_the_version(
    source: Registry, any_registry: Registry, blend: str
) -> None:
    add_seed(any_registry)
    for words in (b"other", b"words"):
        add_expert(any_registry, "law", ffn=any_registry.blobs.put_bytes(words))
    with pytest.raises(ConflictError, match="law@2 cannot be published: the next version of this name is 3"):
        copy_mix(source, any_registry, blend)
    assert queries.list_mixes(any_registry) == []


def test_a_blob_that_nothing_refers_to_is_copied_again_so_that_its_collection_loses_nothing(
    source: Registry, any_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = queries.get_expert(source, "law")
    orphan = any_registry.blobs.path(any_registry.blobs.put_bytes(source.blobs.read_bytes(law.ffn)))
    os.utime(orphan, (0, 0))
    publish = copying.publish_expert

    def after_a_collection(*given: Any, **more: Any) -> Any:
        collect(any_registry, grace=timedelta(hours=1))
        return publish(*given, **more)

    monkeypatch.setattr(copying, "publish_expert", after_a_collection)
    assert copy_expert(source, any_registry, "law").ffn == law.ffn
    assert queries.verify(any_registry) == []


def test_the_command_copies_a_mix(source: Registry, tmp_path: Path, blend: str) -> None:
    other = tmp_path / "other"
    done = CliRunner().invoke(
        app, ["--home", str(source.home), "copy", "--mix", "blend", "--to", str(other), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["mix"] == blend
