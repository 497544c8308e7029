"""A home of an earlier version, stored in tests/data: it opens, and its locks give the same digests.

home.zip contains a seed, the experts code, law (anchored) and cooking, and four mixes. Only `taught@1` was trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from composer.composition import compose_lock
from composer.evaluation.evaluate import evaluate
from composer.extension import extend_lock, remove
from composer.mix.lock import Lock, canonical_json
from composer.mix.opening import find_mix, open_mix
from registry.catalog import queries
from registry.home import Registry, open_registry

HOME = Path(__file__).parents[2] / "data" / "home.zip"
MIXES = ["options@1", "plain@1", "plain@2", "taught@1"]


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[Registry]:
    """The registry of the stored home."""
    shutil.unpack_archive(HOME, tmp_path / "earlier")
    opened = open_registry(tmp_path / "earlier", embedder="hashing:8")
    yield opened
    opened.engine.dispose()


def _lock(registry: Registry, mix: str) -> Lock:
    stored = registry.blobs.read_bytes(queries.get_mix(registry, mix).lock)
    return Lock.model_validate(json.loads(stored))


def test_an_earlier_home_opens_with_all_that_it_contains(earlier: Registry) -> None:
    assert [seed.name for seed in queries.list_seeds(earlier)] == ["smol"]
    assert [expert.ref for expert in queries.list_experts(earlier)] == ["code@1", "cooking@1", "law@1"]
    assert [mix.ref for mix in queries.list_mixes(earlier)] == MIXES
    assert queries.verify(earlier) == []


def test_experts_of_an_earlier_home_are_found_and_get_the_vectors_of_their_cards(earlier: Registry) -> None:
    experts = queries.list_experts(earlier)
    assert [expert.embedding.card for expert in experts] == [None] * 3
    hits = queries.search(earlier, "the plaintiff asked the court")
    assert len(hits) == 3 and all(hit.passage for hit in hits)
    cards = [expert.embedding.card for expert in queries.list_experts(earlier)]
    assert [card is not None and card.shape for card in cards] == [(2, 8)] * 3
    assert {hit.expert.ref for hit in queries.search(earlier, "the plaintiff asked the court")} == {
        expert.ref for expert in experts
    }


@pytest.mark.parametrize("mix", MIXES)
def test_locks_and_manifests_of_an_earlier_version_are_read_and_written_unchanged(
    earlier: Registry, mix: str
) -> None:
    record, manifest = find_mix(earlier, mix)
    assert manifest.to_bytes() == earlier.blobs.read_bytes(record.manifest)
    assert _lock(earlier, mix).to_bytes() == earlier.blobs.read_bytes(record.lock)


@pytest.mark.parametrize("mix", MIXES)
def test_mixes_of_an_earlier_version_compute(earlier: Registry, mix: str) -> None:
    model = open_mix(earlier, find_mix(earlier, mix)[1]).model
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.isfinite().all()


@pytest.mark.parametrize("mix", ["options@1", "plain@1", "plain@2"])
def test_locks_of_an_earlier_version_give_the_same_digests(earlier: Registry, mix: str) -> None:
    record, lock = queries.get_mix(earlier, mix), _lock(earlier, mix)
    if lock.parent is None:
        again = compose_lock(earlier, lock, "again")
    else:
        again = extend_lock(earlier, lock, "again", parent=record.parent)
    assert (again.mix.manifest, again.mix.lock) == (record.manifest, record.lock)


def test_an_earlier_trained_lock_gives_the_same_digests_each_time(earlier: Registry) -> None:
    # Trained weights depend on the machine's linear algebra, and so does their digest.
    first, second = (compose_lock(earlier, _lock(earlier, "taught@1"), "again").mix for _ in range(2))
    assert (first.manifest, first.lock) == (second.manifest, second.lock)
    assert first.lock == queries.get_mix(earlier, "taught@1").lock


def test_removing_from_an_earlier_extension_gives_the_composition_before_it(earlier: Registry) -> None:
    assert remove(earlier, "plain@2", "cooking").mix.manifest == queries.get_mix(earlier, "plain@1").manifest


def test_mixes_of_an_earlier_version_are_evaluated(earlier: Registry) -> None:
    assert evaluate(earlier, "taught", against=["plain@2"])["mean"].keys() >= {
        "mix",
        "plain@2",
        "dense_merging",
    }


def test_a_lock_from_before_the_options_for_selection_opens_and_keeps_its_digest(earlier: Registry) -> None:
    settings = {
        "router": "nexus",
        "combine": "convex",
        "top_k": 1,
        "trunk_merge": "mean",
        "training": {"warm_start": False, "tokens": 0, "learning_rate": 0.001},
        "license_override": None,
    }
    stored = canonical_json({**_lock(earlier, "plain@1").model_dump(mode="json"), "settings": settings})
    lock = Lock.model_validate(json.loads(stored))
    assert lock.to_bytes() == stored
    assert find_mix(earlier, compose_lock(earlier, lock, "old").mix.ref)[1].top_k == 1


def test_a_lock_whose_settings_do_not_fit_its_parent_is_refused(earlier: Registry) -> None:
    lock = _lock(earlier, "plain@1")
    with pytest.raises(ValidationError, match="without a parent needs all settings"):
        Lock.model_validate({**lock.model_dump(), "parent": queries.get_mix(earlier, "plain@1").manifest})
