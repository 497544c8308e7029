"""Garbage collection: removes blobs that no row refers to and what killed processes left behind."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.claims import oldest_start
from registry.database import lock_writers
from registry.errors import NotFoundError
from registry.home import Registry
from registry.records import Digest, Leftover
from registry.schema import Base, Blob
from registry.work import sweep

GRACE = timedelta(days=1)


@dataclass(frozen=True)
class Garbage:
    """What was removed, or would be: blobs, their size in bytes, and what unfinished work left behind."""

    blobs: tuple[Digest, ...]
    size: int
    unfinished: tuple[Leftover, ...]


def collect(registry: Registry, *, grace: timedelta = GRACE, dry_run: bool = False) -> Garbage:
    """Remove blobs that no row refers to and that were last put more than `grace` ago.

    The grace period is the time between storing a blob and publishing what refers to it: it must be longer
    than the longest composition in the foreground. Of runs in the queue it need not be: what was put since
    the oldest of them started stays. Publishing waits meanwhile, so no row comes to refer to a blob that goes.
    """
    limit = time.time() - grace.total_seconds()
    removed: list[Digest] = []
    size = 0
    with registry.session() as session:
        lock_writers(session)
        if (started := oldest_start(session)) is not None:
            limit = min(limit, started.timestamp())
        kept = referred(session)
        for digest in registry.blobs.iter_digests():
            try:
                if digest in kept or registry.blobs.modified(digest) > limit:
                    continue
                size += registry.blobs.size(digest)
            except NotFoundError:  # quarantined meanwhile
                continue
            removed.append(digest)
            if not dry_run:
                session.execute(delete(Blob).where(Blob.digest == digest))
                registry.blobs.delete(digest)
    older = time.time() - limit
    unfinished = [*registry.blobs.sweep(older, dry_run=dry_run), *sweep(registry, older, dry_run=dry_run)]
    return Garbage(tuple(removed), size, tuple(unfinished))


def referred(session: Session) -> set[Digest]:
    """Every digest in a column that is a foreign key to `blobs`, whichever table it is in."""
    columns = (
        column
        for table in Base.metadata.tables.values()
        for column in table.columns
        if any(key.target_fullname == "blobs.digest" for key in column.foreign_keys)
    )
    return {
        digest
        for column in columns
        for digest in session.scalars(select(column).where(column.is_not(None)).distinct())
    }
