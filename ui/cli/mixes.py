"""`nexusmix mixes`: the mixes of the registry and their lineage."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import Column, print_fields, print_json, print_table
from ui.cli.kit.report import print_evaluation
from ui.wording.shapes import mix_shape

EXAMPLES = examples("nexusmix mixes", "nexusmix mixes team@2")


def mixes(
    ctx: typer.Context,
    ref: Annotated[
        str | None, typer.Argument(metavar="MIX", help="Show only this mix, with its evaluation.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the mixes with their parents, or show one."""
    from registry.catalog.queries import get_mix, list_mixes

    with open_registry(ctx) as registry:
        shapes = [mix_shape(mix) for mix in ([get_mix(registry, ref)] if ref else list_mixes(registry))]
    if as_json:
        print_json(shapes[0] if ref else shapes)
    elif ref:
        evaluation = shapes[0].pop("evaluation")
        lists = {key: ", ".join(shapes[0][key]) for key in ("experts", "withdrawn", "purged")}
        print_fields({**shapes[0], **lists})
        if evaluation:
            print_evaluation(evaluation)
    else:
        columns = [
            Column("mix", "Mix", style="bold"),
            Column("parent", "Parent"),
            Column("seed", "Seed"),
            Column("experts", "Experts", show=", ".join),
            Column("withdrawn", "Withdrawn", show=", ".join, style="yellow"),
            Column("created_at", "Published"),
        ]
        print_table(shapes, columns, empty="no mixes yet: nexusmix compose NAME --seed SEED --experts A,B,C")
