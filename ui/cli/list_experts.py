"""`nexusmix list`: the experts of the registry."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.context import Json, SeedFilter, open_registry
from ui.cli.output import Column, print_json, print_table
from ui.cli.shapes import expert_row
from ui.display import parameters


def list_experts(
    ctx: typer.Context,
    seed: SeedFilter = None,
    withdrawn: Annotated[bool, typer.Option("--withdrawn", help="Withdrawn versions too.")] = False,
    as_json: Json = False,
) -> None:
    """List the experts."""
    from registry.catalog import list_experts

    with open_registry(ctx) as registry:
        rows = [expert_row(e) for e in list_experts(registry, seed=seed, include_withdrawn=withdrawn)]
    if as_json:
        print_json(rows)
        return
    columns = [
        Column("expert", "Expert", style="bold"),
        Column("seed", "Seed"),
        Column("license", "Licence"),
        Column("parameters", "Parameters", show=parameters, justify="right"),
        Column("anchored", "Anchored"),
        Column("description", "About"),
    ]
    if withdrawn:
        columns.append(Column("withdrawn", "Withdrawn", style="yellow"))
    print_table(rows, columns, empty="no experts yet: nexusmix contribute, or nexusmix demo")
