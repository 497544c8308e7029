"""Database reads of a composition, and their comparison with its lock."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from sqlalchemy import select

from composer.composition import compose, compose_lock
from composer.extension import extend, extend_lock, remove
from composer.mix import opening
from composer.mix.lock import Lock
from composer.mix.recipe import Recipe, Training
from registry.catalog import queries
from registry.database.schema import Embedding, Expert
from registry.errors import IntegrityError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

UNTRAINED = Training(warm_start=False, tokens=0)
SHORT = Training(tokens=512, sequence_length=32, batch_tokens=128)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count database sessions and the catalog's look-ups of experts."""
    counts: Counter[str] = Counter()
    session, find_expert = Registry.session, queries.find_expert

    @contextmanager
    def counted_session(self: Registry, **options: Any) -> Iterator[Any]:
        counts["sessions"] += 1
        with session(self, **options) as opened:
            yield opened

    def counted_find(*arguments: Any) -> Any:
        counts["experts"] += 1
        return find_expert(*arguments)

    monkeypatch.setattr(Registry, "session", counted_session)
    monkeypatch.setattr(queries, "find_expert", counted_find)
    return counts


def _recipe(training: Training) -> Recipe:
    return Recipe(name="pair", seed="smol", experts=["code", "law"], trunk_merge="regmean", training=training)


def _lock(registry: Registry, digest: str) -> Lock:
    return Lock.model_validate(json.loads(registry.blobs.read_bytes(digest)))


def test_a_trained_composition_of_two_experts_reads_each_fact_once(
    filled: Registry, counted: Counter[str]
) -> None:
    opening._parsed_config.cache_clear()
    compose(filled, _recipe(SHORT))
    assert counted["sessions"] <= 6
    assert counted["experts"] == 2
    assert opening._parsed_config.cache_info().misses == 1


def test_composing_a_lock_again_looks_up_its_experts_once(filled: Registry, counted: Counter[str]) -> None:
    first = compose(filled, _recipe(UNTRAINED))
    counted.clear()
    compose_lock(filled, _lock(filled, first.mix.lock), "again")
    assert counted["sessions"] <= 6
    assert counted["experts"] == 2


def test_a_lock_whose_domain_embedding_is_not_the_registrys_is_refused(filled: Registry) -> None:
    first = compose(filled, _recipe(UNTRAINED))
    second = extend(filled, "pair", "cooking", training=UNTRAINED, license_override="a test")
    _tamper(filled, "code")
    compositions = [
        lambda: compose_lock(filled, _lock(filled, first.mix.lock), "again"),
        lambda: extend_lock(filled, _lock(filled, second.mix.lock), "again", parent="pair@1"),
        lambda: extend(filled, "pair@1", "cooking", training=UNTRAINED, license_override="a test"),
        lambda: remove(filled, "pair@2", "cooking"),
    ]
    for composition in compositions:
        with pytest.raises(IntegrityError, match=r"code@1 has sha256:\w+, the lock pins sha256:\w+"):
            composition()
    assert [each.ref for each in queries.list_mixes(filled)] == ["pair@1", "pair@2"]


def _tamper(registry: Registry, name: str) -> None:
    """Change the stored mean of an expert's domain."""
    with registry.session() as session:
        expert = session.scalars(select(Expert).where(Expert.name == name)).one()
        row = session.scalars(select(Embedding).where(Embedding.expert_id == expert.id)).one()
        row.mean = row.mean[::-1]


@pytest.fixture(scope="module")
def branched(pico_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three anchored experts and three free ones of one seed."""
    root = tmp_path_factory.mktemp("branched")
    registry = open_registry(root / "home", embedder="hashing:16")
    add_seed(registry, "pico", pico_seed, license="Apache-2.0")
    for kind, roles in (("anchored", "ffn"), ("free", "all")):
        for number, domain in enumerate(("code", "math", "cooking"), 1):
            folder = pico.branch_pico(pico_seed, root / f"{kind}-{domain}", seed=number, roles=roles)
            data = [pico.write_documents(root / f"{domain}.jsonl", domain)]
            contribute(registry, f"{kind}-{domain}", folder, seed="pico", license="MIT", data=data)
    registry.engine.dispose()
    return registry.home


@pytest.fixture
def grown(branched: Path, tmp_path: Path) -> Iterator[Registry]:
    registry = open_registry(shutil.copytree(branched, tmp_path / "grown"), embedder="hashing:16")
    for kind in ("anchored", "free"):
        members = [f"{kind}-code", f"{kind}-math"]
        recipe = Recipe(
            name=kind, seed="pico", experts=members, trunk_merge="regmean", training=Training(tokens=0)
        )
        compose(registry, recipe)
    yield registry
    registry.engine.dispose()


@pytest.mark.parametrize(
    ("kind", "training", "kept"),
    [
        ("free", Training(tokens=0), False),
        ("free", Training(tokens=0, train_router=False), True),
        ("free", UNTRAINED, True),
        ("anchored", Training(tokens=0), True),
        ("anchored", Training(tokens=0, train_router=True), False),
    ],
)
def test_an_extension_without_a_fine_tune_solves_old_embeddings_again_if_its_trunk_is_fitted(
    grown: Registry, kind: str, training: Training, kept: bool
) -> None:
    before, after = (
        _gates(grown, result)
        for result in (f"{kind}@1", extend(grown, kind, f"{kind}-cooking", training=training).mix.ref)
    )
    assert torch.allclose(before, after[:, :2], atol=1e-4) == kept


def test_an_extension_pins_in_its_lock_that_it_solves_all_embeddings_again(grown: Registry) -> None:
    extended = extend(grown, "free", "free-cooking", training=Training(tokens=0))
    lock = _lock(grown, extended.mix.lock)
    assert lock.settings.training.train_router is True
    # A lock from before this default lacks the field, and keeps its meaning.
    earlier = lock.settings.training.model_copy(update={"train_router": None})
    settings = lock.settings.model_copy(update={"training": earlier})
    again = extend_lock(grown, lock.model_copy(update={"settings": settings}), "earlier", parent="free@1")
    kept = extend(grown, "free@1", "free-cooking", training=Training(tokens=0, train_router=False))
    assert again.manifest.router == kept.manifest.router != extended.manifest.router


def _gates(registry: Registry, ref: str) -> torch.Tensor:
    """The experts' embeddings in every block, [blocks, experts, width]."""
    model = opening.open_mix(registry, opening.find_mix(registry, ref)[1]).model
    with torch.no_grad():
        return torch.stack([mixture.router.gate() for mixture in model.mixtures()])
