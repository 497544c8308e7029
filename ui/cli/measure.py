"""`nexusmix measure`: how well one expert alone predicts its own and other domains."""

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
        int, typer.Option(min=0, metavar="N", help="How many other domains, the nearest first.")
    ] = 8,
    as_json: Json = False,
) -> None:
    """Measure an expert alone on its own and other domains' held-out text.

    Bits per byte beside its seed's: what it gained where it was trained,
    and what that cost elsewhere.
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
