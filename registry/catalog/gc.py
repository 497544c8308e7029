"""Garbage collection: removes blobs that no row refers to and what killed processes left behind."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.database.engine import lock_writers
from registry.database.schema import Base, Blob
from registry.errors import ConflictError, NotFoundError
from registry.home import Registry
from registry.queue.claims import oldest_start
from registry.records import Digest, Leftover
from registry.store_users import Others
from registry.work_folders import sweep

GRACE = timedelta(days=1)


@dataclass(frozen=True)
class Garbage:
    """What was removed, or would be: blobs, their size in bytes, and what unfinished work left behind."""

    blobs: tuple[Digest, ...]
    size: int
    unfinished: tuple[Leftover, ...]


def collect(
    registry: Registry, *, grace: timedelta = GRACE, dry_run: bool = False, adopt: bool = False
) -> Garbage:
    """Remove blobs that no row refers to and that were last put more than `grace` ago.

    The grace period is the time between storing a blob and publishing what refers to it: it must be longer
    than the longest composition in the foreground. Of runs in the queue it need not be: what was put since
    the oldest of them started stays. Publishing waits meanwhile, so no row comes to refer to a blob that goes.

    Raises ConflictError where other databases keep blobs in the store, or may do so, unless `adopt` says that
    none of them needs any.
    """
    limit = time.time() - grace.total_seconds()
    removed: list[Digest] = []
    size = 0
    with registry.session() as session:
        lock_writers(session)
        if (started := oldest_start(session)) is not None:
            limit = min(limit, started.timestamp())
        kept = referred(session)
        others = registry.blobs.others()
        if not adopt:
            _refuse_shared(registry, others, kept)
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
        if not dry_run and (others.places or others.unknown):
            registry.blobs.adopt()  # last, for on a full disk there is room only now
    older = time.time() - limit
    unfinished = [*registry.blobs.sweep(older, dry_run=dry_run), *sweep(registry, older, dry_run=dry_run)]
    return Garbage(tuple(removed), size, tuple(unfinished))


def _refuse_shared(registry: Registry, others: Others, kept: set[Digest]) -> None:
    """Raises ConflictError if this database does not know of all that the store's blobs are needed for.

    A store that was filled before users were noted passes where each of its blobs is referred to.
    """
    remedy = "if nothing else needs them, run once: nexusmix gc --adopt-store"
    if others.places:
        raise ConflictError(
            f"the store {registry.blobs} also keeps blobs of another database ({'; '.join(others.places)}, seen from "
            f"the store): collecting by this one would delete them; {remedy}; a store that several databases share "
            "cannot be collected: give each its own by NEXUSMIX_STORE_URL"
        )
    if others.unknown:
        strange = sum(digest not in kept for digest in registry.blobs.iter_digests())
        if strange:
            raise ConflictError(
                f"the store {registry.blobs} was filled by an older version, which did not note by which database, "
                f"and this database does not refer to {strange:,} of its blobs; {remedy}"
            )


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
