"""Search for experts: candidates from the index, ranked by their nearest texts, with the passage that matched.

m is the embedder's dimension, n the number of chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, Row, Select, bindparam, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from registry.blobs import BlobStore
from registry.checkpoints.tensors import read_header
from registry.database.rows import decode_vector
from registry.database.schema import Embedding, Expert
from registry.domains import index, scores
from registry.domains.documents import parse_documents
from registry.domains.embedders import Embedder
from registry.domains.embedding import chunk_documents
from registry.domains.inverted import LEAST_CANDIDATES
from registry.errors import IntegrityError, NotFoundError, StorageError, UnsafeFileError
from registry.home import Registry
from registry.records import Digest

log = logging.getLogger(__name__)
CANDIDATES_A_RESULT = 3
_CACHED_CHUNKS = 256  # experts whose chunk vectors stay in memory, about 0.4 MB each
_CACHED_PASSAGES = 32


# Expert id, name, description, sample, chunk vectors; centroids and card.
_Row = Row[int, str, str, str | None, str | None, bytes, bytes | None]


class Found(NamedTuple):
    """An expert's id, its score, and the passage that matched if it was asked for and its text is stored."""

    expert_id: int
    score: float
    passage: str | None


def search(
    registry: Registry,
    query: np.ndarray,
    embedder: Embedder,
    *,
    limit: int,
    wanted: Sequence[ColumnElement[bool]] = (),
    passages: int = 0,
) -> list[Found]:
    """Return the experts nearest to a unit vector [m], best first; the first `passages` with their passage.

    Raises:
        InvalidEmbeddingError: the vector has another dimension than the embedder's.
    """
    enough = max(LEAST_CANDIDATES, CANDIDATES_A_RESULT * limit)
    with registry.session(read_only=True) as session:
        found = index.search_in(session, registry, query, embedder.id, limit=enough, wanted=wanted)
        rows = _rows(session, [expert_id for expert_id, _score in found])
    cards = _cards(registry, embedder, rows)
    ranked = []
    for row in rows:
        centroids = decode_vector(row.centroids).reshape(-1, embedder.id.dimension)
        chunks = _chunks(registry.blobs, row.chunk_vectors, embedder.id.dimension)
        score, nearest = scores.score(query, scores.Vectors(centroids, cards[row.id], chunks))
        place = None if chunks is None or nearest is None else (nearest, len(chunks))
        ranked.append((score, row, place))
    ranked.sort(key=lambda each: (-each[0], each[1].id))
    return [
        Found(
            row.id,
            score,
            _passage(registry.blobs, row.sample, *place) if place and rank < passages else None,
        )
        for rank, (score, row, place) in enumerate(ranked[:limit])
    ]


def _rows(session: Session, expert_ids: Sequence[int]) -> Sequence[_Row]:
    return session.execute(_query(), {"ids": expert_ids}).all()


@cache
def _query() -> Select[int, str, str, str | None, str | None, bytes, bytes | None]:
    """Return the query for the rows of experts by `ids`; to make it takes longer than to run it."""
    return (
        select(
            Expert.id,
            Expert.name,
            Expert.description,
            Expert.sample,
            Expert.chunk_vectors,
            Embedding.centroids,
            Embedding.card,
        )
        .join(Embedding, Embedding.expert_id == Expert.id)
        .where(Expert.id.in_(bindparam("ids", expanding=True)))
    )


def _cards(registry: Registry, embedder: Embedder, rows: Sequence[_Row]) -> dict[int, np.ndarray]:
    """Return the card [2, m] of each row by expert id; those of earlier versions are computed and stored."""
    cards = {
        row.id: decode_vector(row.card).reshape(2, embedder.id.dimension)
        for row in rows
        if row.card is not None
    }
    missing = [row for row in rows if row.id not in cards]
    if not missing:
        return cards
    made = scores.card_vectors(embedder, [(row.name, row.description) for row in missing])
    try:
        with registry.session() as session:
            for row, card in zip(missing, made, strict=True):
                stored = card.astype("<f4").tobytes()
                session.execute(update(Embedding).where(Embedding.expert_id == row.id).values(card=stored))
    except (
        StorageError,
        SQLAlchemyError,
    ) as error:  # a read-only database: the next search computes them again
        log.info("cannot store the vectors of cards: %s", error)
    return cards | {row.id: card for row, card in zip(missing, made, strict=True)}


def _chunks(blobs: BlobStore, digest: Digest | None, dimension: int) -> np.ndarray | None:
    """Return the stored chunk vectors [n, m]; None if there are none, or if the blob is missing or damaged."""
    if digest is None:
        return None
    try:
        return _read_chunks(blobs.path(digest), dimension)
    except (NotFoundError, IntegrityError, StorageError, UnsafeFileError) as error:
        log.warning("the search ranks an expert by its centroids only: %s", error)
        return None


@lru_cache(maxsize=_CACHED_CHUNKS)
def _read_chunks(path: Path, dimension: int) -> np.ndarray | None:
    info = read_header(path).get("vectors")
    if info is None or info.dtype != "F32" or info.shape[1:] != (dimension,) or not info.shape[0]:
        return None
    return np.fromfile(path, "<f4", offset=info.start, count=info.parameters).reshape(info.shape)


def _passage(blobs: BlobStore, sample: Digest | None, number: int, count: int) -> str | None:
    """Return the chunk with this number of the `count` of a stored sample; None where no text is stored."""
    if sample is None:
        return None
    try:
        chunks = _read_passages(blobs.path(sample), count)
    except (NotFoundError, IntegrityError, StorageError) as error:
        log.warning("the search shows no passage of an expert: %s", error)
        return None
    return chunks[number] if number < len(chunks) else None


@lru_cache(maxsize=_CACHED_PASSAGES)
def _read_passages(path: Path, count: int) -> list[str]:
    return chunk_documents(parse_documents(path.read_bytes()), limit=count)
