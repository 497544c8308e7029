"""`nexusmix evaluate`: measure a mix on held-out text of every domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import (
    ActiveExperts,
    Json,
    MixRef,
    examples,
    open_registry,
    parse_names,
)
from ui.cli.kit.output import print_json, progress
from ui.cli.kit.report import print_evaluation, print_tasks

EXAMPLES = examples(
    "nexusmix evaluate team",
    "nexusmix evaluate team@2 --against team@1 --against linear",
    "nexusmix evaluate team --tasks arc_easy,hellaswag --limit 200",
)
HARNESS = "lm-evaluation-harness (extra eval)"


def evaluate(
    ctx: typer.Context,
    mix: MixRef,
    against: Annotated[
        list[str] | None, typer.Option(metavar="MIX", help="Another mix for comparison. Repeatable.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Bytes of held-out text per domain.")
    ] = None,
    active_experts: ActiveExperts = None,
    oracle: Annotated[
        bool,
        typer.Option("--oracle", help="Also with each domain's own expert forced: a router's ceiling."),
    ] = False,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Tasks to run, or groups of them.", rich_help_panel=HARNESS),
    ] = None,
    task_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder with task files of your own. They may run code: use what you trust.",
            rich_help_panel=HARNESS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the first examples of a task.", rich_help_panel=HARNESS),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a mix on held-out text of its domains.

    In bits per byte (lower is better), against the seed, each domain's own expert, dense merging and any
    other mix; and where each domain's tokens go. The result is kept with the mix, unless experts
    are masked.

    With --tasks, these tasks are run instead on the seed, every expert, dense merging, the mix and the others, and
    kept beside the rest.
    """
    if tasks is not None:
        if active_experts is not None or max_bytes is not None or oracle:
            raise typer.BadParameter("--tasks goes with none of --active-experts, --max-bytes and --oracle")
        _run_tasks(ctx, mix, tasks, task_path, limit, against or (), as_json)
        return
    if task_path is not None or limit is not None:
        raise typer.BadParameter("--task-path and --limit go with --tasks")
    from composer.evaluation.evaluate import evaluate as measure

    chosen = {} if max_bytes is None else {"max_bytes": max_bytes}
    with open_registry(ctx) as registry, progress() as report:
        evaluation = measure(
            registry,
            mix,
            against=against or (),
            active_experts=parse_names(active_experts),
            oracle=oracle,
            progress=report,
            **chosen,
        )
    if as_json:
        print_json(evaluation)
    else:
        print_evaluation(evaluation)


def _run_tasks(
    ctx: typer.Context,
    mix: str,
    tasks: str,
    task_path: Path | None,
    limit: int | None,
    against: Sequence[str],
    as_json: bool,
) -> None:
    from composer.evaluation.harness import evaluate_tasks

    names = parse_names(tasks) or []
    with open_registry(ctx) as registry, progress() as report:
        evaluation = evaluate_tasks(
            registry, mix, names, task_path=task_path, limit=limit, against=against, progress=report
        )
    if as_json:
        print_json(evaluation)
    else:
        print_tasks(evaluation["tasks"])
