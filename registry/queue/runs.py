"""The queue for users: submit, look up, cancel and retry runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from registry.access import record
from registry.database.engine import lock_writers
from registry.database.rows import copied_fields
from registry.database.schema import Run, RunMetric
from registry.errors import AccessError, ConflictError, InvalidInputError, NotFoundError
from registry.home import Registry
from registry.records import RunRecord, RunState

LIVE: tuple[RunState, ...] = ("queued", "running")
MAX_ATTEMPTS = 3
_LARGEST_ID = 2**31 - 1


def submit(
    registry: Registry,
    kind: str,
    request: Mapping[str, Any],
    *,
    key: str | None = None,
    max_attempts: int = MAX_ATTEMPTS,
) -> RunRecord:
    """Queue a run, or return the run with the same key that is already queued or running.

    The default key is the digest of kind and request, so a double click submits one run. Raises
    InvalidInputError for a request that cannot be written as JSON.
    """
    key = key or request_key(kind, request)
    with registry.session() as session:
        lock_writers(session)
        run = _live_run(session, key)
        if run is None:
            run = Run(
                kind=kind,
                request=dict(request),
                key=key,
                max_attempts=max_attempts,
                actor=registry.actor.name,
                created_at=clock(session),
            )
            session.add(run)
            session.flush()
            session.refresh(run)
            record(session, registry.actor, "queue run", f"run {run.id}", kind=kind)
        return run_record(run)


def request_key(kind: str, request: Mapping[str, Any]) -> str:
    """Return the digest of a request. Raises InvalidInputError if it cannot be written as JSON."""
    try:
        text = json.dumps([kind, request], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the request of a {kind} run cannot be written as JSON ({error}): use plain numbers and strings"
        ) from error
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def get_run(registry: Registry, run_id: int) -> RunRecord:
    """Return one run with the tail of its log. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return run_record(find_run(session, run_id))


def list_runs(
    registry: Registry,
    *,
    states: Collection[RunState] | None = None,
    kind: str | None = None,
    limit: int = 100,
    before: int | None = None,
) -> list[RunRecord]:
    """Return runs without their logs, newest first; `before` is the last id of the previous page."""
    query = select(Run).order_by(Run.id.desc()).limit(limit).options(defer(Run.log))
    if states is not None:
        query = query.where(Run.state.in_(states))
    if kind is not None:
        query = query.where(Run.kind == kind)
    if before is not None:
        query = query.where(Run.id < before)
    with registry.session(read_only=True) as session:
        return [run_record(run, with_log=False) for run in session.scalars(query)]


def count_runs(registry: Registry) -> dict[str, int]:
    """Return the number of runs per state; states without runs are omitted."""
    with registry.session(read_only=True) as session:
        rows = session.execute(select(Run.state, func.count()).group_by(Run.state)).all()
        return {str(state): count for state, count in rows}


def get_metrics(registry: Registry, run_id: int) -> dict[str, list[tuple[int, float]]]:
    """Return a run's metrics: name to (step, value) pairs in the order of steps. Raises NotFoundError."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    with registry.session(read_only=True) as session:
        find_run(session, run_id)
        rows = session.execute(
            select(RunMetric.name, RunMetric.step, RunMetric.value)
            .where(RunMetric.run_id == run_id)
            .order_by(RunMetric.name, RunMetric.step)
        )
        for name, step, value in rows:
            metrics.setdefault(name, []).append((step, value))
    return metrics


def request_cancel(registry: Registry, run_id: int) -> RunRecord:
    """Cancel a run: at once if no worker has it, otherwise after its worker has stopped the work.

    A second request has no effect. Raises NotFoundError; ConflictError if the run has already ended.
    """
    with registry.session() as session:
        run = find_run(session, run_id, lock=True)
        record(session, registry.actor, "cancel run", f"run {run.id}")
        _refuse_strangers(registry, run)
        if run.state not in LIVE:
            raise ConflictError(f"run {run.id} has already ended ({run.state}): there is nothing to cancel")
        run.cancel_requested = True
        now = clock(session)
        if run.state == "queued" or (run.lease_until is not None and run.lease_until < now):
            close(run, "cancelled", now)
        return run_record(run)


def retry(registry: Registry, run_id: int) -> RunRecord:
    """Queue a failed or cancelled run again, with all its attempts; it resumes from its last checkpoint.

    Raises NotFoundError; ConflictError if it has not ended, has succeeded, or the same request is live.
    """
    with registry.session() as session:
        lock_writers(session)
        run = find_run(session, run_id, lock=True)
        record(session, registry.actor, "retry run", f"run {run.id}")
        _refuse_strangers(registry, run)
        if run.state not in ("failed", "cancelled"):
            raise ConflictError(f"run {run.id} is {run.state}: only a failed or cancelled run can be retried")
        live = _live_run(session, run.key)
        if live is not None:
            raise ConflictError(f"run {live.id} is {live.state} for the same request: follow that one")
        run.state = "queued"
        run.attempt = 0
        run.cancel_requested = False
        run.stage, run.done, run.total, run.stage_started_at = None, 0, 0, None
        run.worker = run.error = run.result = None
        run.started_at = run.finished_at = None
        return run_record(run)


def find_run(session: Session, run_id: int, *, lock: bool = False) -> Run:
    """Return the row of a run; `lock` locks it until the transaction ends. Raises NotFoundError."""
    query = select(Run).where(Run.id == run_id)
    known = 0 < run_id <= _LARGEST_ID  # the databases raise other errors for larger ids
    run = session.scalar(query.with_for_update() if lock else query) if known else None
    if run is None:
        raise NotFoundError(f"no run {run_id}: see `nexusmix runs`")
    return run


def close(
    run: Run,
    state: RunState,
    now: datetime,
    *,
    result: dict[str, Any] | None = None,
    error: str | None = None,
) -> None:
    """Set the final state of a live run; a run that has published always succeeds."""
    assert run.state in LIVE
    if run.published is not None and state != "succeeded":
        state, result, error = "succeeded", run.published, None
    run.state, run.result, run.error = state, result, error
    run.lease_until, run.finished_at = None, now


def clock(session: Session) -> datetime:
    """Return the time used for leases: the server's with PostgreSQL, because workers may run on several machines."""
    if session.get_bind().dialect.name == "postgresql":
        moment: datetime | None = session.scalar(select(func.clock_timestamp()))
        assert moment is not None
        return moment
    return datetime.now(UTC)


def run_record(run: Run, *, with_log: bool = True) -> RunRecord:
    """Return the record of a run."""
    converted: dict[str, Any] = {"log": run.log if with_log else ""}
    return RunRecord(**copied_fields(run, RunRecord, converted), **converted)


def _refuse_strangers(registry: Registry, run: Run) -> None:
    """Raise AccessError for a run that another user queued, unless the actor is a maintainer."""
    actor = registry.actor
    if actor.role != "maintainer" and run.actor != actor.name:
        raise AccessError(
            f"run {run.id} was queued by {run.actor or 'somebody else'}: only a maintainer may do this"
        )


def _live_run(session: Session, key: str) -> Run | None:
    return session.scalar(select(Run).where(Run.key == key, Run.state.in_(LIVE)))
