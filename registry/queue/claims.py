"""The queue for workers: claim a run, renew its lease, report progress, and end it exactly once.

A claim returns a fence: the run's id and a token that increases with every claim. Every write passes its fence.
A write with an outdated fence raises ConflictError and changes nothing. So a worker that returns after its lease
expired cannot disturb its successor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import and_, delete, insert, or_, select, tuple_
from sqlalchemy.orm import Session

from registry.database.schema import Run, RunMetric
from registry.errors import ConflictError
from registry.home import Registry
from registry.queue.runs import clock, close, find_run, run_record
from registry.records import Fence, Metric, RunRecord

LOG_CHARACTERS = 16_000
_METRICS_A_STATEMENT = 1_000  # SQLite limits a statement to some ten thousand parameters


def claim(
    registry: Registry, worker: str, lease_seconds: float, *, run_id: int | None = None
) -> RunRecord | None:
    """Claim the oldest run that is queued or whose lease has expired; None if there is none.

    With `run_id`, claim this run if it is one of these.

    Some runs are ended instead of claimed. A run that has published succeeds, a run with a cancel request is
    cancelled, and a run without remaining attempts fails. Concurrent workers get different runs.
    """
    registry.actor.require("work on runs")
    with registry.session() as session:
        while (run := _next(session, run_id)) is not None:
            now = clock(session)
            if run.published is not None:
                close(run, "succeeded", now, result=run.published)
            elif run.cancel_requested:
                close(run, "cancelled", now)
            elif run.attempt >= run.max_attempts:
                close(run, "failed", now, error=_lost(run))
            else:
                run.state, run.worker = "running", worker
                run.token += 1
                run.attempt += 1
                run.started_at = run.started_at or now
                _renew(run, now, lease_seconds)
                return run_record(run)
            session.flush()
    return None


def heartbeat(registry: Registry, fence: Fence, lease_seconds: float) -> RunRecord:
    """Renew the lease. Raises ConflictError if the fence is outdated or the run has ended."""
    with registry.session() as session:
        run = _held(session, fence)
        _renew(run, clock(session), lease_seconds)
        return run_record(run)


def report(
    registry: Registry,
    fence: Fence,
    *,
    progress: tuple[str, int, int] | None = None,
    metrics: Sequence[Metric] = (),
    log: str = "",
) -> None:
    """Store progress as (stage, done, total), new metrics, and new log text; only the log's tail is kept.

    Metrics that are not finite are dropped. Raises ConflictError if the fence is outdated or the run has ended.
    """
    with registry.session() as session:
        run = _held(session, fence)
        if progress is not None:
            stage, run.done, run.total = progress
            if stage != run.stage:
                run.stage, run.stage_started_at = stage, clock(session)
        if log:
            run.log = (run.log + log.replace("\0", ""))[-LOG_CHARACTERS:]
        _put_metrics(session, run.id, metrics)


def finish(
    registry: Registry,
    fence: Fence,
    state: Literal["succeeded", "failed", "cancelled"],
    *,
    result: dict[str, Any] | None = None,
    error: str | None = None,
) -> RunRecord:
    """End the run. Raises ConflictError if the fence is outdated or the run has already ended.

    A run that has published something always succeeds. A run that failed after a cancel request is cancelled.
    """
    with registry.session() as session:
        run = _held(session, fence)
        if state == "failed" and run.cancel_requested:
            state = "cancelled"
        close(run, state, clock(session), result=result, error=error and error.replace("\0", ""))
        return run_record(run)


def release(registry: Registry, fence: Fence, *, error: str | None = None) -> RunRecord:
    """Return the run to the queue, because its work failed with `error` or (if None) its worker is stopping.

    A stopping worker uses up no attempt; an error in the last attempt fails the run. A run with a cancel request
    is cancelled. Raises ConflictError if the fence is outdated or the run has ended.
    """
    with registry.session() as session:
        run = _held(session, fence)
        now = clock(session)
        if run.cancel_requested:
            close(run, "cancelled", now)
        elif error is not None and run.attempt >= run.max_attempts:
            close(run, "failed", now, error=f"{error}; that was attempt {run.attempt} of {run.max_attempts}")
        else:
            run.state, run.worker, run.lease_until = "queued", None, None
            run.error = error
            run.attempt -= 0 if error else 1
        return run_record(run)


def entitle(session: Session, fence: Fence | None, published: dict[str, Any] | None = None) -> None:
    """Check that a transaction may write for a run, and record `published` in the run.

    Every publishing transaction calls this. Raises ConflictError if the run has already published, another
    worker has claimed it, it has ended, or it has a cancel request. Does nothing outside a run (`fence` None).
    """
    if fence is None:
        return
    run = _held(session, fence)
    if run.cancel_requested:
        raise ConflictError(f"run {run.id} was cancelled: nothing was published")
    if published is not None:
        if run.published is not None:
            raise ConflictError(f"run {run.id} has already published {run.published}")
        run.published = published


def oldest_start(session: Session) -> datetime | None:
    """Return the earliest start of a live run; None without one. Blobs stored since then may be needed."""
    query = select(Run.started_at).where(Run.state.in_(("queued", "running")), Run.started_at.is_not(None))
    return session.scalar(query.order_by(Run.started_at).limit(1))


def _next(session: Session, run_id: int | None) -> Run | None:
    abandoned = and_(Run.state == "running", Run.lease_until < clock(session))
    query = select(Run).where(or_(Run.state == "queued", abandoned)).order_by(Run.id).limit(1)
    if run_id is not None:
        query = query.where(Run.id == run_id)
    return session.scalars(query.with_for_update(skip_locked=True)).first()


def _held(session: Session, fence: Fence) -> Run:
    run = find_run(session, fence.run_id, lock=True)
    if run.token != fence.token:
        raise ConflictError(f"run {run.id} was taken over by {run.worker}: this attempt's writes are refused")
    if run.state != "running":
        raise ConflictError(f"run {run.id} is {run.state}: this attempt's writes are refused")
    return run


def _renew(run: Run, now: datetime, lease_seconds: float) -> None:
    run.heartbeat_at = now
    run.lease_until = now + timedelta(seconds=lease_seconds)


def _lost(run: Run) -> str:
    reason = run.error or "its worker was killed or lost its machine"
    return f"{reason}; that was attempt {run.attempt} of {run.max_attempts}"


def _put_metrics(session: Session, run_id: int, metrics: Sequence[Metric]) -> None:
    """Insert or replace metrics; a resumed training repeats the steps since its checkpoint."""
    values = {(name, step): value for name, step, value in metrics if math.isfinite(value)}
    keys = list(values)
    for start in range(0, len(keys), _METRICS_A_STATEMENT):
        some = keys[start : start + _METRICS_A_STATEMENT]
        known = tuple_(RunMetric.name, RunMetric.step).in_(some)
        session.execute(delete(RunMetric).where(RunMetric.run_id == run_id, known))
        rows = [{"run_id": run_id, "name": key[0], "step": key[1], "value": values[key]} for key in some]
        session.execute(insert(RunMetric), rows)
