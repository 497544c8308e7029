"""Search through the index: sealed segments, the tail in SQL, and segments that are missing, damaged or foreign."""

import json
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest
from publishing import add_expert, add_seed, race
from sqlalchemy.orm import Session

from registry.catalog.queries import get_expert, withdraw
from registry.database.rows import encode_embedding, find_expert
from registry.database.schema import Expert
from registry.domains import index
from registry.domains import segments as segments_module
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


def add_row(session: Session, like: Expert, name: str, centroid: np.ndarray) -> None:
    """Add a copy of an expert with one centroid, without the checks of publishing."""
    copied = [
        column.key for column in Expert.__table__.columns if column.key not in ("id", "name", "name_key")
    ]
    columns = {key: getattr(like, key) for key in copied}
    row = Expert(**columns, name=name, name_key=name)
    row.embedding = encode_embedding(
        DomainEmbedding(EMBEDDER, centroid, centroid[None], np.ones(1, dtype=np.float32), 1, "0" * 64)
    )
    session.add(row)


def segments(registry: Registry) -> list[Path]:
    return sorted((registry.home / "index").rglob("*.faiss"))


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


def test_a_new_expert_is_found_at_once_and_writes_no_file(
    registry: Registry, experts: dict[str, int]
) -> None:
    index.update(registry, EMBEDDER, at_least=1)
    before = segments(registry)
    physics = publish(registry, "physics", [5])
    assert index.search(registry, AXES[5], EMBEDDER, limit=1) == [(physics, 1.0)]
    assert segments(registry) == before != []
    chemistry = publish(registry, "chemistry", [5])
    assert dict(index.search(registry, AXES[5], EMBEDDER, limit=2)) == {physics: 1.0, chemistry: 1.0}


def test_a_full_tail_is_sealed_and_absorbs_segments_that_are_not_much_larger(
    registry: Registry, experts: dict[str, int]
) -> None:
    assert not index.update(registry, EMBEDDER, at_least=4)
    assert index.update(registry, EMBEDDER, at_least=3)
    (first,) = segments(registry)
    publish(registry, "physics", [5])
    assert index.update(registry, EMBEDDER, at_least=1)
    assert len(segments(registry)) == 2 and first in segments(registry)
    publish(registry, "chemistry", [6])
    assert index.update(registry, EMBEDDER, at_least=1)
    assert len(segments(registry)) == 1 and first not in segments(registry)
    assert len(index.search(registry, np.ones(8), EMBEDDER, limit=9)) == 5


def test_a_sealed_index_is_not_read_from_sql_again(
    registry: Registry, experts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index.search(registry, AXES[2], EMBEDDER, limit=3)
    index.update(registry, EMBEDDER, at_least=1)
    index._opened.cache_clear()
    assert index.search(registry, AXES[2], EMBEDDER, limit=3) == first
    index._opened.cache_clear()
    monkeypatch.setattr(index, "decode_vector", lambda *_: pytest.fail("read again"))
    assert index.search(registry, AXES[2], EMBEDDER, limit=3) == first


def test_a_search_seals_a_long_tail_that_no_contribution_sealed(
    registry: Registry, experts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "WAITING", 3)
    assert index.search(registry, AXES[2], EMBEDDER, limit=1) == [(experts["math"], 1.0)]
    assert len(segments(registry)) == 1


def test_a_segment_of_another_state_of_the_database_is_not_searched(
    registry: Registry, experts: dict[str, int]
) -> None:
    index.update(registry, EMBEDDER, at_least=1)
    with registry.session() as session:  # as after a restored backup and other contributions
        expert = session.get_one(Expert, experts["law"])
        expert.embedding.centroids = AXES[[6, 7]].tobytes()
    index._opened.cache_clear()
    assert index.search(registry, AXES[6], EMBEDDER, limit=1) == [(experts["law"], 1.0)]
    assert index.search(registry, AXES[3], EMBEDDER, limit=1)[0][1] == 0


def test_a_large_segment_is_an_inverted_file_with_a_measured_recall(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "FLAT_VECTORS", 100)
    add_seed(registry)
    numbers = np.random.default_rng(0)
    rows = numbers.standard_normal((300, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with registry.session() as session:
        one = publish(registry, "first", [0])
        template = session.get_one(Expert, one)
        for number, row in enumerate(rows):
            add_row(session, template, f"e{number}", row)
    index.update(registry, EMBEDDER, at_least=1)
    found = index.search(registry, rows[7], EMBEDDER, limit=10)
    exact = np.argsort(-(rows @ rows[7]))[:10] + one + 1
    assert found[0][0] == exact[0]
    assert len({expert for expert, _ in found} & set(exact.tolist())) >= 9
    (manifest,) = (registry.home / "index").rglob("manifest.json")
    (segment,) = json.loads(manifest.read_bytes())["segments"]
    assert segment["lists"] >= 1 and segment["recall"] >= 0.99
    assert segment["experts"] == 301


def test_the_recall_counts_an_expert_with_several_vectors_once(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    topics = np.repeat(np.eye(16, dtype=np.float32), 4_000, axis=0)
    rows = topics + 0.05 * numbers.standard_normal(topics.shape).astype(np.float32)
    ids = np.repeat(np.arange(len(rows) // 4), 4)
    segment = segments_module.build_segment(
        tmp_path,
        lambda step: iter([(ids[::step], rows[::step])]),
        dimension=16,
        vectors=len(rows),
        last=1,
        marked=1,
        mark="",
        experts=len(rows) // 4,
    )
    assert segment.recall >= 0.99 and 0 < segment.lists < 256


def test_processes_that_seal_together_leave_one_valid_index(
    registry: Registry, experts: dict[str, int]
) -> None:
    imports = (
        "from registry.domains import index; from registry.home import open_registry;"
        "from registry.records import EmbedderId; import numpy as np; e = EmbedderId('hashing', '1', 8, 'sum');"
        "r = open_registry(sys.argv[1])"
    )
    body = "index.update(r, e, at_least=1); print(len(index.search(r, np.ones(8), e, limit=9)))"
    assert race(imports, body, 3, str(registry.home)) == ["3"] * 3
    assert len(segments(registry)) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove", "manifest"])
def test_a_damaged_or_missing_segment_is_replaced_by_sql(
    registry: Registry, experts: dict[str, int], damage: str
) -> None:
    expected = index.search(registry, AXES[3], EMBEDDER, limit=3)
    index.update(registry, EMBEDDER, at_least=1)
    (path,) = segments(registry)
    if damage == "manifest":
        path = path.with_name("manifest.json")
    sound = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        flipped = bytes([*sound[:-1], sound[-1] ^ 1])
        path.write_bytes({"flip": flipped, "truncate": sound[:50], "empty": b"", "manifest": b"{"}[damage])
    index._opened.cache_clear()
    assert index.search(registry, AXES[3], EMBEDDER, limit=3) == expected
    index.update(registry, EMBEDDER, at_least=1)
    assert len(segments(registry)) == 1
    index._opened.cache_clear()
    assert index.search(registry, AXES[3], EMBEDDER, limit=3) == expected


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
    assert index.update(registry, newer, at_least=1) and index.update(registry, EMBEDDER, at_least=1)
    assert len(segments(registry)) == 2
    assert index.search(registry, AXES[0], newer, limit=9) == [(alone, 1.0)]


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
    assert not index.update(registry, EMBEDDER, at_least=1)
    assert index.search(registry, AXES[2], EMBEDDER, limit=1) == [(experts["math"], 1.0)]


def test_a_segment_of_an_earlier_version_is_still_searched() -> None:
    numbers = np.random.default_rng(0)
    rows = numbers.standard_normal((400, 8)).astype(np.float32)
    centres = faiss.IndexFlatIP(8)
    earlier = faiss.IndexIVFScalarQuantizer(
        centres, 8, 4, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    earlier.train(rows)
    earlier.add_with_ids(rows, np.arange(400))
    ids, scores = segments_module.search_segment(earlier, 4, rows[5], 10)
    assert ids[0] == np.argmax(rows @ rows[5])
    assert scores == pytest.approx(np.sort(rows @ rows[5])[::-1][:10], abs=0.1)
