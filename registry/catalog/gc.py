"""Garbage collection: removes blobs that no row refers to and unfinished work of killed processes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.access import record
from registry.database.engine import lock_writers
from registry.database.schema import Base, Blob, blob_columns
from registry.errors import ConflictError, NotFoundError
from registry.home import Registry
from registry.queue.claims import oldest_start
from registry.records import Digest, Leftover
from registry.store_users import Others
from registry.work_folders import sweep

GRACE = timedelta(days=1)


@dataclass(frozen=True)
class Garbage:
    """Blobs that were (or would be) removed, their total size in bytes, and leftovers of unfinished work."""

    blobs: tuple[Digest, ...]
    size: int
    unfinished: tuple[Leftover, ...]


def collect(
    registry: Registry, *, grace: timedelta = GRACE, dry_run: bool = False, adopt: bool = False
) -> Garbage:
    """Remove blobs that no row refers to and that were last written more than `grace` ago.

    The grace period covers the time between storing a blob and publishing a row that refers to it. So it must
    be longer than the longest composition in the foreground. It may be shorter than a run in the queue: blobs
    written since the oldest live run started are kept. Publishing waits for the collection to end, so no new row
    can refer to a blob that is being removed.

    Raises ConflictError if other databases keep, or may keep, blobs in the store. `adopt` asserts that none of
    them needs a blob.
    """
    registry.actor.require("collect garbage")
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
        if removed and not dry_run:
            record(session, registry.actor, "collect garbage", f"{len(removed)} blobs", size=size)
        if not dry_run and (others.places or others.unknown):
            registry.blobs.adopt()  # last: a full disk has no room for it before
    older = time.time() - limit
    unfinished = [*registry.blobs.sweep(older, dry_run=dry_run), *sweep(registry, older, dry_run=dry_run)]
    return Garbage(tuple(removed), size, tuple(unfinished))


def _refuse_shared(registry: Registry, others: Others, kept: set[Digest]) -> None:
    """Raise ConflictError if another database may need blobs of the store.

    A store filled by a version that did not record its users passes if this database refers to every blob.
    """
    remedy = "if nothing else needs them, run once: nexusmix gc --adopt-store"
    if others.places:
        raise ConflictError(
            f"the store {registry.blobs} also keeps blobs of another database ({'; '.join(others.places)}, seen from "
            f"the store): garbage collection here would delete them; {remedy}; a store that several databases share "
            "cannot be collected: set NEXUSMIX_STORE_URL to a separate store for each"
        )
    if others.unknown:
        strange = sum(digest not in kept for digest in registry.blobs.iter_digests())
        if strange:
            raise ConflictError(
                f"the store {registry.blobs} was filled by an older version, which did not record the database, "
                f"and this database does not refer to {strange:,} of its blobs; {remedy}"
            )


def referred(session: Session) -> set[Digest]:
    """Return every digest in a column, of any table, that is a foreign key to `blobs`."""
    return {
        digest
        for table in Base.metadata.tables.values()
        for column in blob_columns(table)
        for digest in session.scalars(select(column).where(column.is_not(None)).distinct())
    }
