"""The score of an expert for a query, from its text and its card.

The score is the mean of two cosines with the query: that of the nearest text, and that of the name. The nearest text
is the mean of the NEAREST nearest chunks, or the description if it is nearer. Where no chunks are stored, the nearest
centroid replaces them. A private expert has none, and the index has room for centroids only. m is the embedder's
dimension, c the number of centroids, n of chunks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from registry.domains.embedders import Embedder

NEAREST = 10
# Names and short requests become sentences of one form: "prove a theorem" and "math" alone have nothing in common.
PHRASE = "a model that is good at {}"


class Vectors(NamedTuple):
    """Unit vectors of one expert: centroids [c, m], card [2, m], and chunks [n, m] where they are stored."""

    centroids: np.ndarray
    card: np.ndarray
    chunks: np.ndarray | None


def card_vectors(embedder: Embedder, cards: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return unit vectors [n, 2, m] of n cards (name, description): description first, then name.

    The name replaces a description that is empty.
    """
    words = [re.sub(r"[-_.]+", " ", name) for name, _about in cards]
    texts = [
        text
        for name, (_name, about) in zip(words, cards, strict=True)
        for text in (about.strip() or name, PHRASE.format(name))
    ]
    return embedder.encode(texts).reshape(len(cards), 2, embedder.id.dimension)


def request_vector(embedder: Embedder, request: str) -> np.ndarray:
    """Return the unit vector [m] of a request in words."""
    vector: np.ndarray = embedder.encode([PHRASE.format(request.strip())])[0]
    return vector


def score(query: np.ndarray, vectors: Vectors) -> tuple[float, int | None]:
    """Return an expert's score for a unit query [m], and the number of its nearest chunk, if it has chunks."""
    about, name = (vectors.card @ query).tolist()
    if vectors.chunks is None:
        return (max(float((vectors.centroids @ query).max()), about) + name) / 2, None
    cosines = vectors.chunks @ query
    count = min(NEAREST, len(cosines))
    nearest = float(np.partition(cosines, -count)[-count:].mean())
    return (max(nearest, about) + name) / 2, int(cosines.argmax())


def index_vectors(centroids: np.ndarray, card: np.ndarray | None) -> np.ndarray:
    """Return vectors [c + 1, m] whose greatest inner product with a query is the expert's score without chunks.

    The mean of two cosines is one inner product with the mean of both vectors. An expert without a card gives its
    centroids [c, m].
    """
    if card is None:
        return centroids
    return (np.concatenate([centroids, card[:1]]) + card[1]) / np.float32(2)
