"""Segments of the search index: immutable FAISS files, and the manifest that lists them.

A segment is flat up to FLAT_VECTORS vectors. A larger one is an inverted file (inverted.py) that visits as many lists
as its recall needs, measured when it is built. Files are mapped, so that opening one reads little. m is the embedder's
dimension.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.domains import inverted

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FORMAT = "nexusmix-index/1"
FLAT_VECTORS = 50_000  # a scan of these takes a few milliseconds

# Batches of ids [k] and vectors [k, m].
Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Segment:
    """A file of the vectors of `experts` experts, whose ids are at most `last`.

    `mark` identifies the stored embedding of expert `marked`, the last one in the file: another database, or a
    restored one, has another. `size` and `modified` are those of the file when `sha256` was computed. `lists` is the
    number of lists that a search visits, 0 in a flat segment; `recall` was measured with it.
    """

    file: str
    last: int
    marked: int
    mark: str
    experts: int
    vectors: int
    sha256: str
    size: int
    modified: int
    lists: int
    recall: float


def read_manifest(folder: Path, database: str) -> list[Segment]:
    """Return the segments of a database, in the order of their experts; none without a valid manifest."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        if (content["format"], content["database"]) != (FORMAT, database):
            return []
        return [Segment(**fields) for fields in content["segments"]]
    except OSError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the search index in %s is damaged and will be rebuilt: %r", folder, error)
        return []


def write_manifest(folder: Path, database: str, segments: list[Segment]) -> None:
    """Write the manifest atomically, and remove the files that it does not list. The caller holds the lock."""
    fields = [dataclasses.asdict(segment) for segment in segments]
    content = {"format": FORMAT, "database": database, "segments": fields}
    with _replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    kept = {MANIFEST, *(segment.file for segment in segments)}
    for path in folder.iterdir():
        if path.suffix in (".faiss", ".tmp") and path.name not in kept:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock for writing; yields False at once if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def open_segment(folder: Path, segment: Segment) -> Any | None:
    """Return a segment's FAISS index, mapped; None if the file is missing or damaged.

    The file is hashed if it has changed since it was written.
    """
    import faiss

    path = folder / segment.file
    try:
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (segment.size, segment.modified):
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != segment.sha256:
                log.warning("the search index %s is damaged and will be rebuilt", path)
                return None
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError):
        return None


def search_segment(index: Any, lists: int, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and inner products of the `count` vectors nearest to a query [m], best first."""
    count = min(count, index.ntotal)
    scores, ids = (
        inverted.search(index, lists, query[None], count) if lists else index.search(query[None], count)
    )
    found = ids[0] >= 0  # an inverted file returns -1 where its lists have too few vectors
    return ids[0][found], scores[0][found]


def build_segment(
    folder: Path, read: Callable[[int], Iterator[Batch]], *, dimension: int, vectors: int, **fields: Any
) -> Segment:
    """Write a segment of about `vectors` vectors and return it. `read(n)` yields every n-th expert's vectors."""
    import faiss

    if vectors <= FLAT_VECTORS:
        lists, recall = 0, 1.0
        flat = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIDMap(faiss.IndexScalarQuantizer(dimension, flat, faiss.METRIC_INNER_PRODUCT))
        trial = None
    else:
        most = inverted.lists_for(vectors)
        every = max(1, vectors // (most * inverted.VECTORS_A_LIST_TRAIN))
        sample = np.concatenate([rows for _ids, rows in read(every)])
        index, trial = inverted.trained(sample, most), inverted.Trial(sample)
    for ids, rows in read(1):
        index.add_with_ids(rows, ids)
        if trial is not None:
            trial.see(ids, rows)
    if trial is not None:
        lists, recall = trial.tuned(index, most)
    name = f"{uuid.uuid4().hex}.faiss"
    with _replacing(folder / name) as temporary:
        faiss.write_index(index, str(temporary))
        with temporary.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    stat = (folder / name).stat()
    return Segment(
        file=name,
        vectors=index.ntotal,
        sha256=digest,
        size=stat.st_size,
        modified=stat.st_mtime_ns,
        lists=lists,
        recall=recall,
        **fields,
    )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, whose file replaces `path` durably if the block ends without an exception."""
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
