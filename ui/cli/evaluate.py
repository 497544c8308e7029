"""`nexusmix evaluate`: measure a mix on held-out text of all its domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import (
    ActiveExperts,
    Json,
    MixRef,
    Processes,
    examples,
    open_registry,
    parse_names,
    use_processes,
    warn_of_withdrawn,
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
        list[str] | None, typer.Option(metavar="MIX", help="Another mix to compare with. Repeatable.")
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Maximum bytes of held-out text per domain.", show_default="200000"
        ),
    ] = None,
    active_experts: ActiveExperts = None,
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle",
            help="Also measure with each domain's own expert forced: an upper bound for any router.",
        ),
    ] = False,
    dume: Annotated[
        bool,
        typer.Option(
            "--dume", help="Also compare with DUME: a merged mix of the same experts, without training."
        ),
    ] = False,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Tasks or task groups to run.", rich_help_panel=HARNESS),
    ] = None,
    task_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with your own task files. They can run code: use only files that you trust.",
            rich_help_panel=HARNESS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Run only the first N examples of each task.", rich_help_panel=HARNESS
        ),
    ] = None,
    chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template/--no-chat-template",
            help="Ask the questions of generation tasks in the mix's chat template, if it has one.",
            rich_help_panel=HARNESS,
        ),
    ] = True,
    nproc: Processes = None,
    as_json: Json = False,
) -> None:
    """Measure a mix on held-out text of its domains.

    Reports bits per byte (lower is better) of the mix, the seed, each domain's own expert, dense merging and the
    mixes of --against. Also reports the routing shares of each domain's tokens. The result is stored with
    the mix, unless --active-experts masks experts.

    With --tasks, runs only these tasks, on the seed, every expert, dense merging, the mix and the mixes
    of --against. Their results are also stored with the mix.
    """
    if tasks is not None:
        if active_experts is not None or max_bytes is not None or oracle or dume or nproc:
            raise typer.BadParameter(
                "--tasks cannot be combined with --active-experts, --max-bytes, --oracle, --dume or --nproc"
            )
        _run_tasks(ctx, mix, tasks, task_path, limit, against or (), chat_template, as_json)
        return
    if task_path is not None or limit is not None:
        raise typer.BadParameter("--task-path and --limit require --tasks")
    from composer.evaluation.evaluate import evaluate as measure

    use_processes(nproc, queue=False)
    chosen = {} if max_bytes is None else {"max_bytes": max_bytes}
    with open_registry(ctx) as registry, progress() as report:
        warn_of_withdrawn(registry, mix)
        evaluation = measure(
            registry,
            mix,
            against=against or (),
            active_experts=parse_names(active_experts),
            oracle=oracle,
            dume=dume,
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
    chat: bool,
    as_json: bool,
) -> None:
    from composer.evaluation.harness import evaluate_tasks

    names = parse_names(tasks) or []
    with open_registry(ctx) as registry, progress() as report:
        evaluation = evaluate_tasks(
            registry,
            mix,
            names,
            task_path=task_path,
            limit=limit,
            against=against,
            chat=chat,
            progress=report,
        )
    if as_json:
        print_json(evaluation)
    else:
        print_tasks(evaluation["tasks"])
