"""The search index of one embedder: segments on disk for most experts, and the newest experts read from SQL.

SQL is the source of truth. Ids of experts increase in the order of their commits, since publishing holds the writers'
lock. So segments cover every expert up to an id, and a search reads the later ones, its tail, from SQL: a published
expert is found at once, and no file is written for it. A tail of SEALED experts becomes a segment, together with
segments that are not much larger; each expert is so written about log2(experts / SEALED) times. Withdrawn and deleted
experts are filtered out by SQL. m is the embedder's dimension.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Engine, Select, and_, bindparam, case, func, select, true
from sqlalchemy.orm import Session

from registry.database.engine import mapped_errors
from registry.database.rows import decode_vector, made_by
from registry.database.schema import DatabaseId, Embedding, Expert
from registry.domains import segments as files
from registry.domains.scores import index_vectors
from registry.domains.segments import Batch, Segment
from registry.errors import InvalidEmbeddingError
from registry.home import Registry
from registry.records import EmbedderId

log = logging.getLogger(__name__)
SEALED = 512  # experts of the tail; reading them from SQL takes some milliseconds
WAITING = 4 * SEALED  # a search seals a tail of this length, which means that no contribution did
_ABSORBED = 2  # a new segment absorbs the last one if that has at most this many times its experts
_ROWS_A_TIME = 1_000
_WIDER = 2  # least factor by which a search grows if too few results pass the filters
_MOST_NAMED = 10_000  # above this, reading every filtered id is faster than an IN list
_NARROW = 1_000  # so few experts are compared one by one
_VECTORS_AN_EXPERT = 5  # a guess: results per expert, which has up to MAX_CENTROIDS + 1 vectors


def search(
    registry: Registry,
    vector: np.ndarray,
    embedder: EmbedderId,
    *,
    limit: int,
    wanted: Sequence[ColumnElement[bool]] = (),
) -> list[tuple[int, float]]:
    """Return ids of about `limit` experts nearest to a vector [m], with their scores without chunks, best first.

    Experts embedded by other embedders and experts that do not match the conditions `wanted` are excluded.

    Raises:
        InvalidEmbeddingError: the vector has another dimension than the embedder's, is zero, or is not finite.
    """
    with registry.session(read_only=True) as session:
        return search_in(session, registry, vector, embedder, limit=limit, wanted=wanted)


def search_in(
    session: Session,
    registry: Registry,
    vector: np.ndarray,
    embedder: EmbedderId,
    *,
    limit: int,
    wanted: Sequence[ColumnElement[bool]] = (),
) -> list[tuple[int, float]]:
    """Return what `search` returns; it reads in an open session, because opening one takes a part of a search."""
    query = _unit(vector, embedder)
    if limit < 1:
        return []
    parts = _open(registry, embedder).parts(registry, session)
    total = sum(part.vectors for part in parts)
    count = min(total, limit * _VECTORS_AN_EXPERT)
    while count:
        best = _nearest(parts, query, count)
        kept = _wanted_of(session, list(best), wanted)
        found = [(expert_id, score) for expert_id, score in best.items() if expert_id in kept]
        if len(found) >= limit or count == total:
            return found[:limit]
        # As many vectors as hold enough results, if the filters pass as often among them; some more to be sure.
        needed = count * limit * 2 // len(found) if found else total
        if needed > total // 4:
            few = _few(session, embedder, wanted)
            if few is not None:
                return sorted(_scores(few, query).items(), key=lambda each: -each[1])[:limit]
        count = min(total, max(needed, count * _WIDER))
    return []


def update(registry: Registry, embedder: EmbedderId, *, at_least: int = SEALED) -> bool:
    """Write the tail to a segment if it has `at_least` experts; returns whether it did.

    It does nothing while another process does the same, or where the home cannot be written.
    """
    index = _open(registry, embedder)
    try:
        with files.locked(index.folder) as mine:
            return mine and index.seal(registry, at_least)
    except OSError as error:  # a full disk or a read-only home makes searches slower, not wrong
        log.warning("cannot write the search index in %s: %s", index.folder, error)
        return False


@dataclass
class _Part:
    """Vectors that are searched together: a mapped segment, or the tail [k, m] with its ids [k]."""

    vectors: int
    index: Any = None
    lists: int = 0
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    def search(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        if self.index is not None:
            return files.search_segment(self.index, self.lists, query, count)
        scores = self.rows @ query
        first = np.argpartition(-scores, min(count, len(scores)) - 1)[:count]
        return self.ids[first], scores[first]


@dataclass
class _Tail:
    """Vectors of the experts above the last segment, read up to expert `last`; `marked` is the newest of them."""

    after: int
    last: int
    marked: int = 0
    mark: str = ""
    experts: int = 0
    batches: list[Batch] = field(default_factory=list)

    def part(self) -> _Part:
        if len(self.batches) > 1:
            ids, rows = zip(*self.batches, strict=True)
            self.batches = [(np.concatenate(ids), np.concatenate(rows))]
        ids_k, rows_km = self.batches[0]
        return _Part(len(ids_k), ids=ids_k, rows=rows_km)


class _Index:
    """One embedder's index in one home, as this process has opened it; safe to share between threads."""

    def __init__(self, folder: Path, database: str, embedder: EmbedderId) -> None:
        self.folder = folder
        self.database = database
        self.embedder = embedder
        self._lock = threading.Lock()
        self._opened: dict[str, Any] = {}
        self._tail = _Tail(0, 0)

    def parts(self, registry: Registry, session: Session) -> list[_Part]:
        """Return what is to be searched now, without empty parts."""
        parts = self._read(session)
        if self._tail.experts >= WAITING and update(registry, self.embedder, at_least=WAITING):
            parts = self._read(session)
        return parts

    def _read(self, session: Session) -> list[_Part]:
        with self._lock:
            segments = self._segments(session)
            self._read_tail(session, segments)
            return self._drawn(segments)

    def seal(self, registry: Registry, at_least: int) -> bool:
        """Write the tail, with the segments that it absorbs, as one segment. The caller holds the folder's lock."""
        with registry.session(read_only=True) as session:
            with self._lock:
                kept = self._segments(session)
            newest = _newest(session)
            fresh = _count(session, self.embedder, _last(kept), newest)
            if fresh < at_least:
                return False
            while kept and kept[-1].experts <= _ABSORBED * fresh:
                fresh += kept.pop().experts
            after = _last(kept)
            marked = session.scalar(
                select(func.max(Embedding.expert_id)).where(*_between(self.embedder, after, newest))
            )
            assert marked is not None, "there are fresh experts"
            mark = _marks(session, [marked])[marked]
            size = session.scalar(
                select(func.sum(func.length(Embedding.centroids))).where(
                    *_between(self.embedder, after, newest)
                )
            )
            made = files.build_segment(
                self.folder,
                lambda step: _batches(session, self.embedder, after, newest, step),
                dimension=self.embedder.dimension,
                vectors=size // (4 * self.embedder.dimension) + fresh,
                last=newest,
                marked=marked,
                mark=mark,
                experts=fresh,
            )
        files.write_manifest(self.folder, self.database, [*kept, made])
        return True

    def _segments(self, session: Session) -> list[Segment]:
        """Return the valid segments and open them: those before the first that is damaged or of other experts."""
        for attempt in range(3):
            listed = files.read_manifest(self.folder, self.database)
            marks = _marks(session, [segment.marked for segment in listed])
            opened: dict[str, Any] = {}
            valid: list[Segment] = []
            for segment in listed:
                index = self._opened.get(segment.file) or files.open_segment(self.folder, segment)
                if index is None or marks.get(segment.marked) != segment.mark:
                    break
                opened[segment.file] = index
                valid.append(segment)
            # Another process may have replaced the manifest and its files after this one read it.
            if len(valid) == len(listed) or attempt == 2:
                break
        self._opened = opened
        return valid

    def _read_tail(self, session: Session, segments: Sequence[Segment]) -> None:
        """Add the experts to the tail that were published since it was read; start again if others were before."""
        after, newest = _last(segments), _newest(session)
        tail = self._tail
        marked = _marks(session, [tail.marked]).get(tail.marked) if tail.experts else ""
        if tail.after != after or tail.last > newest or marked != tail.mark:
            tail = _Tail(after, after)
        if tail.last < newest:
            for ids, rows in _batches(session, self.embedder, tail.last, newest):
                tail.batches.append((ids, rows))
                tail.experts += len(np.unique(ids))
                tail.marked = int(ids[-1])
            tail.last = newest
            tail.mark = _marks(session, [tail.marked]).get(tail.marked, "") if tail.experts else ""
        self._tail = tail

    def _drawn(self, segments: Sequence[Segment]) -> list[_Part]:
        parts = [
            _Part(segment.vectors, index=self._opened[segment.file], lists=segment.lists)
            for segment in segments
        ]
        return [*parts, self._tail.part()] if self._tail.experts else parts


def _open(registry: Registry, embedder: EmbedderId) -> _Index:
    return _opened(registry.home, registry.engine, embedder)


@lru_cache(maxsize=8)
def _opened(home: Path, engine: Engine, embedder: EmbedderId) -> _Index:
    with mapped_errors(engine), engine.connect().execution_options(read_only=True) as connection:
        database = connection.scalar(select(DatabaseId.id)) or ""
    name = hashlib.sha256(repr((database, embedder)).encode()).hexdigest()[:16]
    return _Index(home / "index" / name, database, embedder)


def _unit(vector: np.ndarray, embedder: EmbedderId) -> np.ndarray:
    query = np.ascontiguousarray(vector, dtype=np.float32)
    if query.shape != (embedder.dimension,):
        raise InvalidEmbeddingError(
            f"the query has shape {query.shape}, expected ({embedder.dimension},) for {embedder}"
        )
    length = float(np.linalg.norm(query))
    if not np.isfinite(length) or length == 0:
        raise InvalidEmbeddingError("the query is a zero vector or contains NaN or infinite values")
    return query / np.float32(length)


def _last(segments: Sequence[Segment]) -> int:
    return segments[-1].last if segments else 0


def _newest(session: Session) -> int:
    return session.scalar(select(func.max(Expert.id))) or 0


def _between(embedder: EmbedderId, after: int, upto: int) -> list[ColumnElement[bool]]:
    return [made_by(embedder), Embedding.expert_id > after, Embedding.expert_id <= upto]


def _count(session: Session, embedder: EmbedderId, after: int, upto: int) -> int:
    counted = select(func.count()).select_from(Embedding).where(*_between(embedder, after, upto))
    return session.scalar(counted) or 0


def _marks(session: Session, expert_ids: Sequence[int]) -> dict[int, str]:
    """Return by expert id a digest of its centroids and its time of publication, which never change."""
    if not expert_ids:
        return {}
    return {
        expert_id: hashlib.sha256(created.isoformat().encode() + centroids).hexdigest()[:32]
        for expert_id, created, centroids in session.execute(_marks_query(), {"ids": expert_ids})
    }


@cache
def _marks_query() -> Select[int, datetime, bytes]:
    columns = select(Expert.id, Expert.created_at, Embedding.centroids).join(Expert.embedding)
    return columns.where(Expert.id.in_(bindparam("ids", expanding=True)))


def _vectors_of(session: Session, rows: Select[int, bytes, bytes | None], dimension: int) -> Iterator[Batch]:
    """Yield batches of the vectors of selected rows (expert id, centroids, card)."""
    for part in session.execute(rows.execution_options(yield_per=_ROWS_A_TIME)).partitions():
        vectors = [
            index_vectors(
                decode_vector(centroids).reshape(-1, dimension),
                None if card is None else decode_vector(card).reshape(2, dimension),
            )
            for _id, centroids, card in part
        ]
        ids = np.repeat([expert_id for expert_id, *_ in part], [len(each) for each in vectors])
        yield ids.astype(np.int64), np.concatenate(vectors)


def _batches(session: Session, embedder: EmbedderId, after: int, upto: int, step: int = 1) -> Iterator[Batch]:
    rows = select(Embedding.expert_id, Embedding.centroids, Embedding.card)
    rows = rows.where(*_between(embedder, after, upto)).order_by(Embedding.expert_id)
    if step > 1:
        rows = rows.where(Embedding.expert_id % step == 0)
    return _vectors_of(session, rows, embedder.dimension)


def _nearest(parts: Sequence[_Part], query: np.ndarray, count: int) -> dict[int, float]:
    """Return the best score of each expert among the `count` nearest vectors of each part, best first."""
    found = [part.search(query, count) for part in parts]
    ids = np.concatenate([ids for ids, _scores in found])
    scores = np.concatenate([scores for _ids, scores in found])
    order = np.lexsort((ids, -scores))[:count]  # the older expert first where scores are equal
    best: dict[int, float] = {}
    for expert_id, score in zip(ids[order].tolist(), scores[order].tolist(), strict=True):
        best.setdefault(expert_id, score)
    return best


def _wanted_of(
    session: Session, expert_ids: Sequence[int], wanted: Sequence[ColumnElement[bool]]
) -> set[int]:
    """Return ids of experts that match the conditions; they may include ids that are not in `expert_ids`."""
    query = select(Expert.id)
    if len(expert_ids) > _MOST_NAMED:
        return set(session.scalars(query.where(*wanted)))
    # A condition in a CASE uses no index. Else SQLite reads all rows of a licence to find a few of them.
    passes = case((and_(true(), *wanted), 1), else_=0) == 1
    return set(session.scalars(query.where(Expert.id.in_(expert_ids), passes)))


def _few(session: Session, embedder: EmbedderId, wanted: Sequence[ColumnElement[bool]]) -> list[Batch] | None:
    """Return the vectors of all experts that match the conditions; None if they are many."""
    ids = session.scalars(select(Expert.id).where(*wanted).limit(_NARROW + 1)).all()
    if len(ids) > _NARROW:
        return None
    rows = select(Embedding.expert_id, Embedding.centroids, Embedding.card)
    rows = rows.where(made_by(embedder), Embedding.expert_id.in_(ids))
    return list(_vectors_of(session, rows, embedder.dimension))


def _scores(batches: Sequence[Batch], query: np.ndarray) -> dict[int, float]:
    best: dict[int, float] = {}
    for ids, rows in batches:
        for expert_id, score in zip(ids.tolist(), (rows @ query).tolist(), strict=True):
            best[expert_id] = max(score, best.get(expert_id, -1.0))
    return best
