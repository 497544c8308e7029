"""Search through the FAISS index; the index is built again when it is missing, stale or corrupt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from publishing import add_expert, add_seed

from registry.catalog.queries import get_expert, withdraw
from registry.database.rows import find_expert
from registry.database.schema import Expert
from registry.domains import index
from registry.errors import InvalidEmbeddingError
from registry.home import Registry
from registry.records import DomainEmbedding, EmbedderId

EMBEDDER = EmbedderId("hashing", "1", 8, "sum")
AXES = np.eye(8, dtype=np.float32)


def publish(
    registry: Registry, name: str, axes: Sequence[int], *, seed: str = "base", embedder: EmbedderId = EMBEDDER
) -> int:
    """Publish an expert with a centroid on each of the axes; returns its id."""
    centroids = np.eye(embedder.dimension, dtype=np.float32)[list(axes)]
    weights = np.full(len(axes), 1 / len(axes), dtype=np.float32)
    embedding = DomainEmbedding(embedder, weights @ centroids, centroids, weights, 9, "0" * 64)
    ref = add_expert(registry, name, seed=seed, embedding=embedding).ref
    with registry.session(read_only=True) as session:
        return find_expert(session, ref).id


def files(registry: Registry) -> list[Path]:
    return sorted(path for path in (registry.home / "index").rglob("*") if path.is_file())


@pytest.fixture
def experts(registry: Registry) -> dict[str, int]:
    add_seed(registry)
    return {
        name: publish(registry, name, axes)
        for name, axes in (("code", [0, 1]), ("math", [2]), ("law", [3, 4]))
    }


def test_an_empty_registry_finds_nothing_and_builds_nothing(registry: Registry) -> None:
    assert index.search(registry, AXES[0], EMBEDDER, limit=3) == []
    assert not (registry.home / "index").exists()


def test_experts_come_once_each_by_their_best_centroid(registry: Registry, experts: dict[str, int]) -> None:
    query = 0.8 * AXES[1] + 0.6 * AXES[2]
    found = index.search(registry, query, EMBEDDER, limit=3)
    assert [expert for expert, _ in found] == [experts["code"], experts["math"], experts["law"]]
    np.testing.assert_allclose([score for _, score in found], [0.8, 0.6, 0.0], atol=1e-6)


def test_the_limit_counts_experts_and_the_query_need_not_be_normalised(
    registry: Registry, experts: dict[str, int]
) -> None:
    found = index.search(registry, 5 * AXES[0] + 4 * AXES[1] + AXES[3], EMBEDDER, limit=2)
    assert [expert for expert, _ in found] == [experts["code"], experts["law"]]
    assert all(score <= 1 for _, score in found)


def test_a_new_expert_is_found_at_once_and_the_stale_index_goes(
    registry: Registry, experts: dict[str, int]
) -> None:
    index.search(registry, AXES[5], EMBEDDER, limit=1)
    stale = files(registry)
    physics = publish(registry, "physics", [5])
    assert index.search(registry, AXES[5], EMBEDDER, limit=1) == [(physics, 1.0)]
    assert len(files(registry)) == 1
    assert files(registry) != stale


def test_an_index_is_reused_until_the_experts_change(
    registry: Registry, experts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index.search(registry, AXES[2], EMBEDDER, limit=3)
    monkeypatch.setattr(index, "_build", lambda *_: pytest.fail("built again"))
    assert index.search(registry, AXES[2], EMBEDDER, limit=3) == first


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_corrupt_or_missing_index_is_rebuilt(
    registry: Registry, experts: dict[str, int], damage: str
) -> None:
    expected = index.search(registry, AXES[3], EMBEDDER, limit=3)
    (path,) = files(registry)
    sound = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        flipped = bytes([*sound[:-1], sound[-1] ^ 1])
        path.write_bytes({"flip": flipped, "truncate": sound[:50], "empty": b""}[damage])
    assert index.search(registry, AXES[3], EMBEDDER, limit=3) == expected
    assert path.read_bytes() == sound


def test_experts_that_are_not_wanted_are_not_found(registry: Registry, experts: dict[str, int]) -> None:
    index.search(registry, AXES[2], EMBEDDER, limit=1)
    withdraw(registry, "math", "superseded")
    assert get_expert(registry, "math@1").withdrawn == "superseded"
    wanted = [Expert.withdrawn.is_(None)]
    found = [expert for expert, _ in index.search(registry, AXES[2], EMBEDDER, limit=3, wanted=wanted)]
    assert experts["math"] not in found and len(found) == 2


def test_what_is_wanted_may_change_while_the_index_stays(registry: Registry, experts: dict[str, int]) -> None:
    add_seed(registry, "other")
    foreign = publish(registry, "foreign", [0], seed="other")
    assert index.search(registry, AXES[0], EMBEDDER, limit=9, wanted=[Expert.seed_id == 2]) == [
        (foreign, 1.0)
    ]
    assert foreign not in dict(
        index.search(registry, AXES[0], EMBEDDER, limit=9, wanted=[Expert.seed_id == 1])
    )


def test_vectors_of_different_embedders_never_meet(registry: Registry, experts: dict[str, int]) -> None:
    newer = EmbedderId("hashing", "2", 8, "sum")
    alone = publish(registry, "newer", [0], embedder=newer)
    assert index.search(registry, AXES[0], newer, limit=9) == [(alone, 1.0)]
    assert alone not in dict(index.search(registry, AXES[0], EMBEDDER, limit=9))
    assert len(files(registry)) == 2


@pytest.mark.parametrize(
    "vector", [np.ones(4), np.ones((1, 8)), np.zeros(8), np.full(8, np.nan), np.full(8, np.inf)]
)
def test_a_wrong_query_vector_is_refused(registry: Registry, vector: np.ndarray) -> None:
    with pytest.raises(InvalidEmbeddingError):
        index.search(registry, vector, EMBEDDER, limit=1)


def test_a_home_that_cannot_be_written_slows_the_search_but_does_not_stop_it(
    registry: Registry, experts: dict[str, int]
) -> None:
    (registry.home / "index").write_text("in the way")
    assert index.search(registry, AXES[2], EMBEDDER, limit=1) == [(experts["math"], 1.0)]
