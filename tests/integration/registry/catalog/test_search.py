"""Search in the catalog: the query to the index, and the hits that are returned."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from publishing import EMBEDDER, add_expert, add_seed
from sqlalchemy import select, update

from registry.catalog import queries
from registry.database.schema import Expert
from registry.domains.search import Found
from registry.errors import InvalidEmbeddingError, InvalidInputError, NotFoundError
from registry.home import Registry


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the index by one that contains every expert, newest first, and records its calls."""
    noted: list[dict[str, Any]] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.tile(np.array([1, 0, 0, 0], dtype=np.float32), (len(texts), 1))

    def search(
        opened: Registry,
        vector: np.ndarray,
        embedder: Any,
        *,
        limit: int,
        wanted: Sequence[Any],
        passages: int,
    ) -> list[Found]:
        noted.append({"vector": vector, "embedder": embedder.id, "limit": limit})
        with opened.session(read_only=True) as session:
            ids = session.scalars(select(Expert.id).where(*wanted).order_by(Expert.id.desc())).all()
        return [Found(expert_id, 1.0 - 0.1 * place, None) for place, expert_id in enumerate(ids)][:limit]

    embedder = SimpleNamespace(id=EMBEDDER, encode=encode)
    monkeypatch.setattr("registry.domains.embedding.load_embedder", lambda _name: embedder)
    monkeypatch.setattr("registry.domains.search.search", search)
    return noted


def test_hits_keep_the_order_and_scores_of_the_index(
    any_registry: Registry, calls: list[dict[str, Any]]
) -> None:
    add_seed(any_registry)
    for name in ("python", "prose", "maths"):
        add_expert(any_registry, name)
    hits = queries.search(any_registry, "sorting a list", limit=2)
    assert [(hit.expert.ref, hit.score) for hit in hits] == [("maths@1", 1.0), ("prose@1", 0.9)]
    assert calls[0]["embedder"] == EMBEDDER


def test_withdrawn_experts_leave_their_places_to_others(
    any_registry: Registry, calls: list[dict[str, Any]]
) -> None:
    add_seed(any_registry)
    for name in ("python", "prose", "maths"):
        add_expert(any_registry, name)
    queries.withdraw(any_registry, "maths", "licence mistake")
    assert [hit.expert.ref for hit in queries.search(any_registry, "x", limit=2)] == ["prose@1", "python@1"]


def test_a_vector_is_normalised(any_registry: Registry, calls: list[dict[str, Any]]) -> None:
    add_seed(any_registry, "base")
    assert queries.search(any_registry, np.array([0, 3, 4, 0])) == []
    np.testing.assert_allclose(calls[0]["vector"], [0, 0.6, 0.8, 0], rtol=1e-6)
    assert calls[0]["vector"].dtype == np.float32


@pytest.mark.usefixtures("calls")
def test_a_search_is_narrowed_by_seed_licence_and_anchoring(any_registry: Registry) -> None:
    trunk = add_seed(any_registry).trunk
    add_seed(any_registry, "other")
    add_expert(any_registry, "python", license="MIT")
    add_expert(any_registry, "prose", license="GPL-3.0-only", trunk=trunk)
    add_expert(any_registry, "maths", seed="other", license="MIT")

    def found(**narrow: Any) -> list[str]:
        return [hit.expert.name for hit in queries.search(any_registry, "x", **narrow)]

    assert found(seed="Base") == ["prose", "python"]
    assert found(license="MIT") == ["maths", "python"]
    assert found(license="MIT", seed="other") == ["maths"]
    assert found(anchored=True) == ["prose"]
    assert found(anchored=False) == ["maths", "python"]
    with any_registry.session() as session:
        session.execute(
            update(Expert).where(Expert.name == "prose").values(created_at=datetime(2020, 5, 1, tzinfo=UTC))
        )
    assert found(created=(None, datetime(2021, 1, 1, tzinfo=UTC))) == ["prose"]
    assert found(created=(datetime(2021, 1, 1, tzinfo=UTC), None)) == ["maths", "python"]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    "vector", [[1, 0, 0], [[1, 0, 0, 0]], [0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 0]]
)
def test_a_vector_that_is_none_of_the_embedders_is_refused(registry: Registry, vector: list[Any]) -> None:
    with pytest.raises(InvalidEmbeddingError):
        queries.search(registry, np.array(vector, dtype=np.float32))


@pytest.mark.usefixtures("calls")
def test_a_search_that_cannot_be_meant_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidInputError, match=r"23,000,000 characters, expected at most"):
        queries.search(registry, "x" * 23_000_000)
    with pytest.raises(InvalidInputError, match="empty"):
        queries.search(registry, " ")
    with pytest.raises(InvalidInputError, match="limit"):
        queries.search(registry, "text", limit=0)
    with pytest.raises(NotFoundError, match="no seed"):
        queries.search(registry, "text", seed="none-such")
