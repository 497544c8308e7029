"""Deletion of a mix on both databases: refusals, deleted blobs and remaining blobs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from publishing import add_expert, add_mix, add_seed

from registry.catalog import queries
from registry.catalog.deletion import delete_mix, delete_seed, mixes_built_on
from registry.catalog.gc import collect
from registry.catalog.publish import withdraw
from registry.errors import ConflictError, InvalidInputError, NotFoundError
from registry.home import Registry
from registry.queue import runs

AT_ONCE = timedelta(days=-1)


@pytest.fixture
def blend(any_registry: Registry) -> Registry:
    """A registry with the mix blend@1: one blob of the mix, and its expert's."""
    add_seed(any_registry)
    expert = add_expert(any_registry)
    add_mix(any_registry, experts=["python"], blobs=[expert.ffn, any_registry.blobs.put_bytes(b"trunk")])
    queries.record_evaluation(any_registry, "blend@1", {"mean": {"mix": 2.0}})
    return any_registry


def test_a_deleted_mix_is_not_found_and_its_version_is_not_given_again(blend: Registry) -> None:
    assert delete_mix(blend, "Blend@1").name == "blend@1"
    assert queries.list_mixes(blend) == []
    for ref in ("blend", "blend@1"):
        with pytest.raises(NotFoundError, match="was deleted on"):
            queries.get_mix(blend, ref)
    assert add_mix(blend, experts=["python"]).ref == "blend@2"
    assert queries.get_mix(blend, "blend").ref == "blend@2"


def test_garbage_collection_frees_what_only_the_mix_referred_to(blend: Registry) -> None:
    mix = queries.get_mix(blend, "blend")
    assert delete_mix(blend, "blend@1").freed == len(b"trunk")
    trunk = blend.blobs.put_bytes(b"trunk")
    assert trunk in collect(blend, grace=AT_ONCE).blobs
    assert not blend.blobs.exists(trunk)
    assert blend.blobs.exists(queries.get_expert(blend, "python").ffn)
    assert blend.blobs.exists(mix.lock) and blend.blobs.exists(mix.manifest)
    assert queries.verify(blend) == []


def test_a_dry_run_says_the_same_and_changes_nothing(blend: Registry) -> None:
    before = queries.get_mix(blend, "blend")
    assert delete_mix(blend, "blend@1", dry_run=True).freed == len(b"trunk")
    assert queries.get_mix(blend, "blend") == before


def test_a_mix_that_another_was_made_from_stays_until_that_one_is_deleted(blend: Registry) -> None:
    add_mix(
        blend,
        experts=["python"],
        parent="blend@1",
        blobs=[queries.get_mix(blend, "blend@1").manifest],
    )
    assert mixes_built_on(blend, "blend@1") == ["blend@2"]
    with pytest.raises(ConflictError, match="blend@2 was made from blend@1"):
        delete_mix(blend, "blend@1")
    delete_mix(blend, "blend@2")
    delete_mix(blend, "blend@1")


def test_a_mix_that_was_only_composed_again_without_an_expert_keeps_nothing(blend: Registry) -> None:
    assert add_mix(blend, experts=["python"], parent="blend@1").parent == "blend@1"
    assert mixes_built_on(blend, "blend@1") == []
    delete_mix(blend, "blend@1")
    assert queries.get_mix(blend, "blend@2").parent == "blend@1"


@pytest.mark.parametrize("request_", [{"mix": "blend@1"}, {"mix": "other@1", "against": ["blend@1"]}])
def test_a_mix_that_a_live_run_works_on_stays_until_the_run_has_ended(
    blend: Registry, request_: dict[str, object]
) -> None:
    run = runs.submit(blend, "evaluate", request_)
    with pytest.raises(ConflictError, match=f"run {run.id}"):
        delete_mix(blend, "blend@1")
    runs.request_cancel(blend, run.id)
    delete_mix(blend, "blend@1")


def test_a_name_without_a_version_deletes_nothing(blend: Registry) -> None:
    with pytest.raises(InvalidInputError, match="'blend' has no version: name the version"):
        delete_mix(blend, "blend")
    assert queries.get_mix(blend, "blend").ref == "blend@1"


def test_a_seed_without_experts_is_deleted_and_its_name_is_free(any_registry: Registry) -> None:
    seed = add_seed(any_registry)
    preview = delete_seed(any_registry, seed.name.upper(), dry_run=True)
    assert preview.freed > 0
    assert queries.get_seed(any_registry, seed.name)
    assert delete_seed(any_registry, seed.name) == preview
    with pytest.raises(NotFoundError, match="no seed"):
        queries.get_seed(any_registry, seed.name)
    assert add_seed(any_registry).name == seed.name
    assert queries.verify(any_registry) == []


def test_the_blobs_of_a_deleted_seed_are_collected(any_registry: Registry) -> None:
    seed = add_seed(any_registry)
    delete_seed(any_registry, seed.name)
    collect(any_registry, grace=AT_ONCE)
    assert not any(map(any_registry.blobs.exists, (seed.ffn, seed.trunk)))


def test_a_seed_with_a_withdrawn_expert_or_a_live_run_stays(any_registry: Registry) -> None:
    seed = add_seed(any_registry)
    run = runs.submit(any_registry, "contribute", {"name": "law", "seed": seed.name})
    with pytest.raises(ConflictError, match=f"run {run.id}"):
        delete_seed(any_registry, seed.name)
    runs.request_cancel(any_registry, run.id)
    add_expert(any_registry)
    withdraw(any_registry, "python@1", "wrong")
    with pytest.raises(ConflictError, match="python@1"):
        delete_seed(any_registry, seed.name)
