"""Garbage collection: removes blobs that no row refers to and unfinished work of killed processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
_DIGESTS_A_TIME = 500  # databases limit the length of an IN list


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
    with registry.session(read_only=True) as session:
        limit = _limit(session, grace)
        kept = referred(session)
    others = registry.blobs.others()
    if not adopt:
        _refuse_shared(registry, others, kept)
    # Found without the writers' lock, because it takes a time that grows with the store.
    unneeded = (digest for digest in registry.blobs.iter_digests() if digest not in kept)
    old = [digest for digest in unneeded if _is_old(registry, digest, limit)]
    removed: list[Digest] = []
    size = 0
    with registry.session(read_only=dry_run or not old) as session:
        if old and not dry_run:
            lock_writers(session)
        limit = _limit(session, grace)
        kept = referred(session, old)  # some may have been published since
        for digest in old:
            try:
                if digest in kept or not _is_old(registry, digest, limit):
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


def _limit(session: Session, grace: timedelta) -> float:
    """Return the time (seconds since the epoch) of the newest blob that may be removed."""
    limit = time.time() - grace.total_seconds()
    started = oldest_start(session)
    return limit if started is None else min(limit, started.timestamp())


def _is_old(registry: Registry, digest: Digest, limit: float) -> bool:
    try:
        return registry.blobs.modified(digest) <= limit
    except NotFoundError:  # quarantined meanwhile
        return False


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


def referred(session: Session, among: Sequence[Digest] | None = None) -> set[Digest]:
    """Return every digest in a column, of any table, that is a foreign key to `blobs`; only those `among` some."""
    parts = (
        [None]
        if among is None
        else [among[n : n + _DIGESTS_A_TIME] for n in range(0, len(among), _DIGESTS_A_TIME)]
    )
    return {
        digest
        for part in parts
        for table in Base.metadata.tables.values()
        for column in blob_columns(table)
        for digest in session.scalars(
            select(column).where(column.is_not(None) if part is None else column.in_(part)).distinct()
        )
    }
