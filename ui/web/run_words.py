"""A run's subject, state, progress and outcome as text and HTML for the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from composer.mix.research import OPTIONS
from registry.records import RunRecord
from ui.web.components import chip
from ui.web.form import address_of
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
    if run.kind == "push":
        return f"{of} → {request.get('target')}"
    if run.kind == "export":
        return f"{of} → {Path(str(request.get('out'))).name}"
    return str(of or request.get("seed") or "")


def state_chip(run: RunRecord) -> str:
    """The run's state as a chip (HTML)."""
    if run.state == "running" and run.cancel_requested:
        return chip("stopping", "warning")
    return chip(run.state, STATE_MARKS[run.state])


def progress(run: RunRecord, live: Sequence[RunRecord] = ()) -> tuple[float, str]:
    """Return the finished fraction of the stage, and a text such as "Training: 42 %, about 2 min left".

    `live` are the queued and running runs, among which a queued run has its position.
    """
    if run.state == "queued":
        return 0.0, waiting(run, live)
    stage = (run.stage or "starting").capitalize()
    if not run.total:
        return 0.0, f"{stage} …"
    fraction = min(1.0, run.done / run.total)
    left = remaining(run)
    rest = "" if left is None else f", about {roughly(left)} left"
    return fraction, f"{stage}: {share(fraction)}{rest}"


def waiting(run: RunRecord, live: Sequence[RunRecord]) -> str:
    """Say what a queued run waits for: "Waiting for run 7, and for 2 queued before it"."""
    busy = [str(each.id) for each in live if each.state == "running"]
    before = sum(each.state == "queued" and each.id < run.id for each in live)
    if not busy:
        return "Waiting for a worker" + (f", {before:,} queued before it" if before else "")
    queued = f", and for {before:,} queued before it" if before else ""
    return f"Waiting for {'run' if len(busy) == 1 else 'runs'} {', '.join(sorted(busy, key=int))}{queued}"


def form_of(run: RunRecord) -> dict[str, str]:
    """Return the address of the form that queued a run, filled as it was; empty for kinds without a form."""
    request = run.request
    if run.kind in ("contribute", "add-seed"):
        names = ("seed", "source", "name", "license", "description", "embedding")
        fields = {name: request.get(name) for name in names}
        text = (
            {"text": "private"}
            if request.get("embedding")
            else {"data": "\n".join(request.get("data") or [])}
        )
        return address_of({**fields, **text})
    if run.kind == "compose":
        return address_of(recipe_fields(request["recipe"]))
    return {}


def recipe_fields(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as the fields of the compose form."""
    merge = recipe.get("trunk_merge", {"method": "routed"})
    method = merge if isinstance(merge, str) else merge["method"]
    fields: dict[str, Any] = {
        name: recipe.get(name) for name in ("seed", "experts", "name", "license_override")
    }
    training = recipe.get("training", {})
    if method == "routed":
        return {
            **fields,
            "kind": "whole",
            "strength": training.get("warm_start"),
            "whole_tokens": training.get("tokens") or None,
        }
    chosen = {"router": recipe.get("router"), "trunk_merge": method, "data_mix": training.get("data_mix")}
    named = {
        (name if not _is_research(name, value) else f"research_{name}"): value
        for name, value in chosen.items()
    }
    shared = ("top_k", "top_p", "null_experts", "combine")
    own = [name for name in training if name not in ("data_mix",)]
    numbers = {name: recipe.get(name) for name in shared} | {name: training[name] for name in own}
    return {**fields, "kind": "merged", **named, **numbers}


def _is_research(name: str, value: object) -> bool:
    return value is not None and OPTIONS[name].covers(value)


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
