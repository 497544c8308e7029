"""`nexusmix evaluate`: measure a mix on held-out text of every domain."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.context import ActiveExperts, Json, MixRef, examples, open_registry, parse_names
from ui.cli.output import print_json, progress
from ui.cli.report import print_evaluation

EXAMPLES = examples("nexusmix evaluate team", "nexusmix evaluate team@2 --against team@1 --against linear")


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
    as_json: Json = False,
) -> None:
    """Measure a mix on held-out text of its domains.

    In bits per byte (lower is better), against the seed, each domain's own expert, dense merging and any
    other mix; and where each domain's tokens go. The result is kept with the mix, unless experts
    are masked.
    """
    from composer.evaluate import evaluate as measure

    chosen = {} if max_bytes is None else {"max_bytes": max_bytes}
    with open_registry(ctx) as registry, progress() as report:
        evaluation = measure(
            registry,
            mix,
            against=against or (),
            active_experts=parse_names(active_experts),
            progress=report,
            **chosen,
        )
    if as_json:
        print_json(evaluation)
    else:
        print_evaluation(evaluation)
