"""Search by stored chunks and cards: ranking, passages, rows of earlier versions, and blobs that are damaged."""

from pathlib import Path

import numpy as np
import pytest
from publishing import add_expert, add_seed
from sqlalchemy import select

from registry.blobs import LocalBlobStore
from registry.catalog.queries import search
from registry.checkpoints.canonical import canonical_header
from registry.database.schema import Embedding
from registry.domains.documents import put_documents
from registry.domains.embedding import MAX_CHUNKS, embed_domain, load_embedder
from registry.home import Registry, open_registry

PASTRY = "Knead the dough, rest it for an hour and bake the bread until its crust is brown."
SOUP = "Simmer the broth with garlic and onion, then season the soup with pepper."
COURT = "The court found that the contract was void and awarded damages to the plaintiff."


@pytest.fixture
def filled(tmp_path: Path) -> Registry:
    """Two experts whose text is stored and a private one, as rows of an earlier version without cards."""
    registry = open_registry(tmp_path / "home", embedder="hashing:256")
    add_seed(registry)
    for name, documents in (("kitchen", [PASTRY, SOUP]), ("law", [COURT]), ("secret", [COURT])):
        publish(registry, name, documents, private=name == "secret")
    return registry


def publish(
    registry: Registry, name: str, documents: list[str], *, private: bool, vectors: np.ndarray | None = None
) -> None:
    embedding, made = embed_domain(load_embedder(registry.embedder), documents)
    vectors = made if vectors is None else vectors
    header = canonical_header([("vectors", "F32", vectors.shape)])
    add_expert(
        registry,
        name,
        description="",
        embedding=embedding,
        sample=None if private else put_documents(registry.blobs, documents),
        chunk_vectors=None if private else registry.blobs.put_bytes(header + vectors.tobytes()),
    )


def test_a_search_returns_the_passage_that_matched_unless_the_text_is_private(filled: Registry) -> None:
    best, *_ = search(filled, "season a soup with pepper and garlic")
    assert (best.expert.name, best.passage) == ("kitchen", SOUP)
    passages = {hit.expert.name: hit.passage for hit in search(filled, "the court and the plaintiff")}
    assert passages == {"law": COURT, "secret": None, "kitchen": passages["kitchen"]}
    assert search(filled, "a soup", passages=0)[0].passage is None


def test_a_passage_is_right_for_an_expert_with_more_chunks_than_are_taken_today(filled: Registry) -> None:
    documents = [f"{PASTRY} Variation number {i}." for i in range(3 * MAX_CHUNKS)]
    documents[2 * MAX_CHUNKS + 1] = SOUP
    vectors = load_embedder(filled.embedder).encode(documents)
    publish(filled, "earlier", documents, private=False, vectors=vectors)
    hits = {hit.expert.name: hit for hit in search(filled, SOUP)}
    assert hits["earlier"].passage == SOUP


def test_the_name_alone_finds_an_expert(filled: Registry) -> None:
    assert search(filled, "kitchen")[0].expert.name == "kitchen"
    assert search(filled, "secret")[0].expert.name == "secret"


def test_cards_of_earlier_versions_are_computed_once_and_stored(filled: Registry) -> None:
    first = [(hit.expert.ref, hit.score) for hit in search(filled, "a soup")]
    with filled.session(read_only=True) as session:
        cards = session.scalars(select(Embedding.card)).all()
    assert [len(card or b"") for card in cards] == [2 * 256 * 4] * 3
    again = [(hit.expert.ref, hit.score) for hit in search(filled, "a soup")]
    assert [ref for ref, _ in again] == [ref for ref, _ in first]
    np.testing.assert_allclose([score for _, score in again], [score for _, score in first], atol=1e-6)


def test_an_expert_with_a_damaged_blob_is_still_found(filled: Registry) -> None:
    [kitchen] = [hit.expert for hit in search(filled, "a soup") if hit.expert.name == "kitchen"]
    assert isinstance(filled.blobs, LocalBlobStore)
    for digest in (kitchen.chunk_vectors, kitchen.sample):
        assert digest is not None
        filled.blobs.path(digest).write_bytes(b"damaged")
    hit = search(filled, "season a soup with pepper")[0]
    assert (hit.expert.name, hit.passage) == ("kitchen", None)
