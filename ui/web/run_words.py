"""What a run is called, how far it is and what it led to, in words and marks for the screens."""

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
# Below this share of a stage, how long the rest will take is a guess that jumps about.
ENOUGH_DONE = 0.02
RELATIVE_DAYS = 1


def subject(run: RunRecord) -> str:
    """What the run works on: "team", "team@1 + german@1", "law → ./law"."""
    request = run.request
    names = (request.get("recipe", {}).get("name"), *(request.get(key) for key in ("mix", "name", "expert")))
    of = next((name for name in names if name), "")
    if run.kind in ("extend", "remove"):
        return f"{of} {'+' if run.kind == 'extend' else '−'} {request.get('expert')}"
    if run.kind == "export":
        return f"{of} → {Path(str(request.get('out'))).name}"
    return str(of or request.get("seed") or "")


def state_chip(run: RunRecord) -> str:
    """The run's state as a mark (HTML)."""
    if run.state == "running" and run.cancel_requested:
        return chip("stopping", "warning")
    return chip(run.state, STATE_MARKS[run.state])


def progress(run: RunRecord) -> tuple[float, str]:
    """The share of the stage that is done, and a sentence: ("training", 41 of 98, about 2 min left)."""
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
    """Seconds until the stage ends, by its pace so far; None when that cannot be told yet."""
    if run.state != "running" or run.stage_started_at is None or not run.total:
        return None
    fraction = run.done / run.total
    if fraction < ENOUGH_DONE or fraction >= 1:
        return None
    spent = ((now or datetime.now(UTC)) - run.stage_started_at).total_seconds()
    return spent / fraction * (1 - fraction)


def roughly(seconds: float) -> str:
    """A time that is only a guess, without digits that promise more: 57.9 → "60 s", 312 → "5 min"."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{round(seconds / 10) * 10} s"
    return f"{round(seconds / 60)} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"


def spent(run: RunRecord) -> float | None:
    """Seconds from the first attempt's start to the end, or to now."""
    if run.started_at is None:
        return None
    return ((run.finished_at or datetime.now(UTC)) - run.started_at).total_seconds()


def ago(moment: datetime, now: datetime | None = None) -> str:
    """ "3 minutes ago", or the day where that says more."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return plural(int(seconds // 60), "minute") + " ago"
    if seconds < RELATIVE_DAYS * 86_400:
        return plural(int(seconds // 3600), "hour") + " ago"
    return f"{moment:%Y-%m-%d}"


def outcome(run: RunRecord) -> dict[str, Any]:
    """What the run has made: {"mix": …}, {"expert": …}, {"folder": …}; empty while there is nothing."""
    made = {**(run.published or {}), **(run.result or {})}
    return {name: made[name] for name in ("mix", "expert", "folder") if made.get(name)}
