"""The event log: who changed the registry, in which way and when. Events are added by `registry.access.record`."""

from __future__ import annotations

from sqlalchemy import select

from registry.database.schema import Event
from registry.home import Registry
from registry.records import EventRecord


def list_events(
    registry: Registry,
    *,
    actor: str | None = None,
    subject: str | None = None,
    limit: int = 100,
    before: int | None = None,
) -> list[EventRecord]:
    """Return events, newest first; `before` is the last id of the previous page.

    `actor` and `subject` select events of one name, such as "law@2".
    """
    query = select(Event).order_by(Event.id.desc()).limit(limit)
    if actor is not None:
        query = query.where(Event.actor == actor)
    if subject is not None:
        query = query.where(Event.subject == subject)
    if before is not None:
        query = query.where(Event.id < before)
    with registry.session(read_only=True) as session:
        return [
            EventRecord(row.id, row.at, row.actor, row.action, row.subject, row.digest, row.detail)
            for row in session.scalars(query)
        ]
