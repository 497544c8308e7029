"""`nexusmix runs [show|follow|cancel|retry]`: the queue of long-running work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.failures import FAILURE
from ui.cli.kit.group import Group, Verb
from ui.cli.kit.output import (
    Column,
    note,
    print_fields,
    print_json,
    print_table,
    print_text,
    progress,
)
from ui.wording.shapes import run_shape

if TYPE_CHECKING:
    from registry.records import RunRecord

app = typer.Typer(cls=Group, rich_markup_mode="rich")
EXAMPLES = examples("nexusmix runs", "nexusmix runs --state failed", "nexusmix runs follow 3")
POLL_SECONDS = 1.0

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
RunId = Annotated[int, typer.Argument(metavar="RUN", help="The run's number.")]


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def list_runs(
    ctx: typer.Context,
    state: Annotated[State | None, typer.Option(metavar="STATE", help="Only runs in this state.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of runs, newest first.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List the runs, or show, follow, cancel or retry one."""
    if ctx.invoked_subcommand is not None:
        return
    from registry.queue import runs

    with open_registry(ctx) as registry:
        shapes = [run_shape(run) for run in runs.list_runs(registry, states=state and [state], limit=limit)]
    if as_json:
        print_json(shapes)
        return
    columns = [
        Column("run", "Run", justify="right", style="bold"),
        Column("kind", "Kind"),
        Column("subject", "Subject"),
        Column("state", "State"),
        Column("progress", "Progress"),
        Column("attempt", "Attempt", justify="right"),
        Column("worker", "Worker"),
        Column("created_at", "Queued"),
    ]
    print_table(
        shapes, columns, empty="no runs yet: nexusmix compose NAME --seed SEED --experts A,B,C --queue"
    )


@app.command(cls=Verb)
def show(ctx: typer.Context, run: RunId, as_json: Json = False) -> None:
    """Show the state, progress, result, metrics and last log lines of a run.

    With --json, also show its request.
    """
    from registry.queue import runs

    with open_registry(ctx) as registry:
        found = runs.get_run(registry, run)
        metrics = runs.get_metrics(registry, run)
    if as_json:
        print_json({**run_shape(found), "metrics": metrics})
        return
    print_run(found)
    for name, values in metrics.items():
        note(
            f"{name}: {values[0][1]:.4g} at step {values[0][0]}, {values[-1][1]:.4g} at step {values[-1][0]}"
        )
    if found.log:
        print_text(found.log)


@app.command(cls=Verb)
def follow(ctx: typer.Context, run: RunId, as_json: Json = False) -> None:
    """Follow a run until it ends. Ctrl-C stops following, but not the run.

    The exit code is 0 if the run succeeded, otherwise 1.
    """
    from registry.queue import runs

    with open_registry(ctx) as registry, progress() as report:
        while (found := runs.get_run(registry, run)).is_live:
            report(found.stage or "waiting for a worker", found.done, found.total)
            time.sleep(POLL_SECONDS)
    _print(found, as_json)
    if found.state != "succeeded":
        raise typer.Exit(FAILURE)


@app.command(cls=Verb)
def cancel(ctx: typer.Context, run: RunId, as_json: Json = False) -> None:
    """Cancel a run that is queued or running."""
    from registry.queue import runs

    with open_registry(ctx) as registry:
        _print(runs.request_cancel(registry, run), as_json)


@app.command(cls=Verb)
def retry(ctx: typer.Context, run: RunId, as_json: Json = False) -> None:
    """Queue a failed or cancelled run again. It resumes from its last checkpoint."""
    from registry.queue import runs

    with open_registry(ctx) as registry:
        _print(runs.retry(registry, run), as_json)


def print_queued(run: RunRecord, as_json: bool) -> None:
    """Print a queued run, the output of `--queue`."""
    _print(run, as_json)
    if not as_json:
        note(f"next: nexusmix runs follow {run.id}; a worker must be running: nexusmix worker")


def print_run(run: RunRecord) -> None:
    """Print a run as lines of name and value."""
    shape: dict[str, Any] = run_shape(run)
    result = shape.pop("result") or {}
    for key in ("request", "log", "published", "token", "lease_until", "heartbeat_at", "stage_started_at"):
        shape.pop(key)
    print_fields({**shape, **{key: result.get(key) for key in ("mix", "expert", "folder")}})


def _print(run: RunRecord, as_json: bool) -> None:
    if as_json:
        print_json(run_shape(run))
    else:
        print_run(run)
