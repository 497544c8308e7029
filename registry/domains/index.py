"""The search index: every centroid of one embedder, in a FAISS file that can be rebuilt from SQL.

The file's name contains a stamp of its source rows, so an outdated index is never opened. Its first bytes are a
hash of the rest, so a corrupt index is detected. In both cases it is rebuilt. m is the embedder's dimension.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, func, select

from registry.blobs import CLOCK_TICK_NS, Signature, signature
from registry.database.rows import made_by
from registry.database.schema import Embedding, Expert
from registry.domains.embedding import MAX_CENTROIDS
from registry.errors import InvalidEmbeddingError
from registry.home import Registry
from registry.records import EmbedderId

log = logging.getLogger(__name__)
_HASH_BYTES = 32
_ROWS_A_TIME = 1_000
_WIDER = 8  # factor by which a search grows if too few results pass the filters
_MOST_NAMED = 1_000  # above this, reading every filtered id is faster than an IN list
_STALE_TEMPORARY_SECONDS = 3600


def search(
    registry: Registry,
    vector: np.ndarray,
    embedder: EmbedderId,
    *,
    limit: int,
    wanted: Sequence[ColumnElement[bool]] = (),
) -> list[tuple[int, float]]:
    """Return the ids of the experts nearest to a vector [m], with the cosine of the nearest centroid, best first.

    Experts embedded by other embedders and experts that do not match the conditions `wanted` are excluded.

    Raises:
        InvalidEmbeddingError: the vector has another dimension than the embedder's, is zero, or is not finite.
    """
    query = _unit(vector, embedder)
    stamp = _read_stamp(registry)
    if limit < 1 or stamp is None:
        return []
    index = _open(registry, embedder, stamp)
    # These centroids cover at least `limit` experts if that many exist, since each has at most MAX_CENTROIDS.
    count = min(index.ntotal, limit * MAX_CENTROIDS)
    while count:
        scores, ids = index.search(query[None], count)
        best: dict[int, float] = {}
        for expert_id, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True):
            best.setdefault(expert_id, score)
        kept = _wanted_of(registry, list(best), wanted)
        found = [(expert_id, score) for expert_id, score in best.items() if expert_id in kept][:limit]
        if len(found) == limit or count == index.ntotal:
            return found
        count = min(index.ntotal, count * _WIDER)
    return []


def _unit(vector: np.ndarray, embedder: EmbedderId) -> np.ndarray:
    query = np.asarray(vector, dtype=np.float32)
    if query.shape != (embedder.dimension,):
        raise InvalidEmbeddingError(
            f"the query has shape {query.shape}, expected ({embedder.dimension},) for {embedder}"
        )
    length = float(np.linalg.norm(query))
    if not np.isfinite(length) or length == 0:
        raise InvalidEmbeddingError("the query is a zero vector or contains NaN or infinite values")
    return query / np.float32(length)


def _read_stamp(registry: Registry) -> str | None:
    """Return a stamp that changes whenever an expert is published; None without experts.

    Experts are never deleted and their embeddings never change. So their number and the newest id identify a state
    of this database. The newest time distinguishes another database with the same numbers.
    """
    newest = select(func.count(), func.max(Expert.id), func.max(Expert.created_at))
    with registry.session(read_only=True) as session:
        count, *rest = session.execute(newest).one()
    return hashlib.sha256(repr([count, *rest]).encode()).hexdigest() if count else None


def _wanted_of(
    registry: Registry, expert_ids: Sequence[int], wanted: Sequence[ColumnElement[bool]]
) -> set[int]:
    """Return ids of experts that match the conditions; they may include ids that are not in `expert_ids`."""
    query = select(Expert.id).where(*wanted)
    if len(expert_ids) <= _MOST_NAMED:
        query = query.where(Expert.id.in_(expert_ids))
    with registry.session(read_only=True) as session:
        return set(session.scalars(query))


def _open(registry: Registry, embedder: EmbedderId, stamp: str) -> Any:
    """Return the index for this stamp: read from a valid file, otherwise built from SQL and written."""
    folder = registry.home / "index" / hashlib.sha256(repr(embedder).encode()).hexdigest()[:16]
    path = folder / f"{stamp[:32]}.faiss"
    index = _read(path)
    if index is None:
        index = _build(registry, embedder)
        try:
            _write(path, index)
        except OSError as error:  # a full disk or a read-only home makes the next search slower, not wrong
            log.warning("cannot write the search index %s: %s", path, error)
    return index


def _build(registry: Registry, embedder: EmbedderId) -> Any:
    import faiss

    rows = select(Embedding.expert_id, Embedding.centroids).where(made_by(embedder)).order_by(Embedding.id)
    index = faiss.IndexIDMap(faiss.IndexFlatIP(embedder.dimension))
    with registry.session(read_only=True) as session:
        for part in session.execute(rows).partitions(_ROWS_A_TIME):
            vectors = [
                np.frombuffer(stored, dtype="<f4").reshape(-1, embedder.dimension) for _, stored in part
            ]
            ids = np.repeat([expert_id for expert_id, _ in part], [len(each) for each in vectors])
            index.add_with_ids(np.concatenate(vectors), ids.astype(np.int64))
    return index


def _read(path: Path) -> Any | None:
    """Return the index of a file, cached while the file is unchanged; None if it is missing or corrupt."""
    try:
        stat = path.stat()
    except OSError:
        return None
    load = _load if time.time_ns() - stat.st_mtime_ns > CLOCK_TICK_NS else _load.__wrapped__
    return load(path, signature(stat))


@lru_cache(maxsize=1)  # the index of ten thousand experts has 120 MB
def _load(path: Path, _signature: Signature) -> Any | None:
    import faiss

    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:_HASH_BYTES], memoryview(content)[_HASH_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        log.warning("the search index %s is corrupt and will be rebuilt", path)
        return None
    return faiss.deserialize_index(np.frombuffer(payload, dtype=np.uint8))


def _write(path: Path, index: Any) -> None:
    """Write the index atomically and remove indexes of earlier states."""
    import faiss

    payload = faiss.serialize_index(index).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(hashlib.sha256(payload).digest() + payload)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    too_old = time.time() - _STALE_TEMPORARY_SECONDS
    for other in path.parent.iterdir():
        if other != path and (other.suffix == ".faiss" or other.stat().st_mtime < too_old):
            other.unlink(missing_ok=True)
