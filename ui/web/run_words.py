"""A run's subject, state, progress and outcome as text and HTML for the pages."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.records import RunRecord
from ui.web.components import chip
from ui.wording.display import plural, share

STATE_MARKS = {
    "queued": "",
    "running": "running",
    "succeeded": "good",
    "failed": "bad",
    "cancelled": "warning",
}
# Below this fraction of a stage, an estimate of the remaining time is unstable.
ENOUGH_DONE = 0.02
RELATIVE_DAYS = 1


def subject(run: RunRecord) -> str:
    """The subject of the run: "team", "team@1 + german@1", "team@1 → team-1"."""
    request = run.request
    names = (request.get("recipe", {}).get("name"), *(request.get(key) for key in ("mix", "name", "expert")))
    of = next((name for name in names if name), "")
    if run.kind in ("extend", "remove"):
        return f"{of} {'+' if run.kind == 'extend' else '−'} {request.get('expert')}"
    if run.kind == "export":
        return f"{of} → {Path(str(request.get('out'))).name}"
    return str(of or request.get("seed") or "")


def state_chip(run: RunRecord) -> str:
    """The run's state as a chip (HTML)."""
    if run.state == "running" and run.cancel_requested:
        return chip("stopping", "warning")
    return chip(run.state, STATE_MARKS[run.state])


def progress(run: RunRecord) -> tuple[float, str]:
    """Return the finished fraction of the stage, and a text such as "Training: 42 %, about 2 min left"."""
    if run.state == "queued":
        return 0.0, "Waiting for a worker"
    stage = (run.stage or "starting").capitalize()
    if not run.total:
        return 0.0, f"{stage} …"
    fraction = min(1.0, run.done / run.total)
    left = remaining(run)
    rest = "" if left is None else f", about {roughly(left)} left"
    return fraction, f"{stage}: {share(fraction)}{rest}"


def remaining(run: RunRecord, now: datetime | None = None) -> float | None:
    """Estimate the seconds until the stage ends from its pace so far; None while that is too uncertain."""
    if run.state != "running" or run.stage_started_at is None or not run.total:
        return None
    fraction = run.done / run.total
    if fraction < ENOUGH_DONE or fraction >= 1:
        return None
    spent = ((now or datetime.now(UTC)) - run.stage_started_at).total_seconds()
    return spent / fraction * (1 - fraction)


def roughly(seconds: float) -> str:
    """Format an estimated time, rounded to its likely precision: 57.9 → "60 s", 312 → "5 min"."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{round(seconds / 10) * 10} s"
    return f"{round(seconds / 60)} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"


def spent(run: RunRecord) -> float | None:
    """Return the seconds from the first attempt's start to the end of the run, or to now."""
    if run.started_at is None:
        return None
    return ((run.finished_at or datetime.now(UTC)) - run.started_at).total_seconds()


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Format a past moment: "3 minutes ago", or the date if it is older than a day."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return plural(int(seconds // 60), "minute") + " ago"
    if seconds < RELATIVE_DAYS * 86_400:
        return plural(int(seconds // 3600), "hour") + " ago"
    return f"{moment:%Y-%m-%d}"


def outcome(run: RunRecord) -> dict[str, Any]:
    """Return the run's products so far: {"mix": …}, {"expert": …}, {"folder": …}, or an empty dict."""
    made = {**(run.published or {}), **(run.result or {})}
    return {name: made[name] for name in ("mix", "expert", "folder") if made.get(name)}
