"""What a composition reads of the database and compares with its lock."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select

from composer import mix
from composer.compose import compose, compose_lock
from composer.extend import extend, extend_lock, remove
from composer.lock import Lock
from composer.recipe import Recipe, Training
from registry import catalog
from registry.errors import IntegrityError
from registry.home import Registry
from registry.schema import Embedding, Expert

UNTRAINED = Training(warm_start=False, tokens=0)
SHORT = Training(tokens=512, sequence_length=32, batch_tokens=128)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts database sessions and the catalog's look-ups of experts."""
    counts: Counter[str] = Counter()
    session, find_expert = Registry.session, catalog.find_expert

    @contextmanager
    def counted_session(self: Registry, **options: Any) -> Iterator[Any]:
        counts["sessions"] += 1
        with session(self, **options) as opened:
            yield opened

    def counted_find(*arguments: Any) -> Any:
        counts["experts"] += 1
        return find_expert(*arguments)

    monkeypatch.setattr(Registry, "session", counted_session)
    monkeypatch.setattr(catalog, "find_expert", counted_find)
    return counts


def _recipe(training: Training) -> Recipe:
    return Recipe(name="pair", seed="smol", experts=["code", "law"], training=training)


def _lock(registry: Registry, digest: str) -> Lock:
    return Lock.model_validate(json.loads(registry.blobs.read_bytes(digest)))


def test_a_trained_composition_of_two_experts_reads_each_fact_once(
    filled: Registry, counted: Counter[str]
) -> None:
    mix._parsed_config.cache_clear()
    compose(filled, _recipe(SHORT))
    assert counted["sessions"] <= 6
    assert counted["experts"] == 2
    assert mix._parsed_config.cache_info().misses == 1


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
    assert [each.ref for each in catalog.list_mixes(filled)] == ["pair@1", "pair@2"]


def _tamper(registry: Registry, name: str) -> None:
    """Change the stored mean of an expert's domain."""
    with registry.session() as session:
        expert = session.scalars(select(Expert).where(Expert.name == name)).one()
        row = session.scalars(select(Embedding).where(Embedding.expert_id == expert.id)).one()
        row.mean = row.mean[::-1]
