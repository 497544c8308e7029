"""`nexusmix measure`: measure one dense expert on its own domain and on others."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import ExpertRef, Json, examples, open_registry
from ui.cli.kit.output import Column, print_json, print_table, progress

EXAMPLES = examples("nexusmix measure python", "nexusmix measure python@1 --domains 20")


def measure(
    ctx: typer.Context,
    expert: ExpertRef,
    domains: Annotated[
        int, typer.Option(min=0, metavar="N", help="Number of other domains to measure, nearest first.")
    ] = 8,
    as_json: Json = False,
) -> None:
    """Measure a single expert on held-out text of its own and other domains.

    Compares its bits per byte (lower is better) with the seed's: the gain
    on its own domain, and the loss on the others.
    """
    from composer.evaluation.expert_measurement import measure_transfer

    with open_registry(ctx) as registry, progress() as report:
        result = measure_transfer(registry, expert, domains=domains, progress=report)
    if as_json:
        print_json(result)
        return
    rows = [{"domain": domain, **scores} for domain, scores in result["bits_per_byte"].items()]
    columns = [
        Column("domain", "Domain", style="bold"),
        Column("seed", "Seed", show=lambda score: f"{score:.3f}"),
        Column("expert", result["expert"], show=lambda score: f"{score:.3f}"),
    ]
    print_table(rows, columns, empty="nothing was measured")
