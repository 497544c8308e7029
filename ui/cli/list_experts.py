"""`nexusmix list`: the experts of the registry."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import Json, SeedFilter, examples, open_registry
from ui.cli.kit.output import Column, note, print_json, print_table
from ui.wording.display import parameters, plural
from ui.wording.shapes import expert_row

EXAMPLES = examples(
    "nexusmix list", "nexusmix list --seed smol --limit 50 --offset 100", "nexusmix list --json"
)
ROWS_OF_A_TABLE = 100


def list_experts(
    ctx: typer.Context,
    seed: SeedFilter = None,
    withdrawn: Annotated[bool, typer.Option("--withdrawn", help="Include withdrawn versions.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum number of experts to list.",
            show_default=f"{ROWS_OF_A_TABLE} in a table, all with --json",
        ),
    ] = None,
    offset: Annotated[int, typer.Option(min=0, metavar="N", help="Number of experts to skip.")] = 0,
    as_json: Json = False,
) -> None:
    """List the experts by name."""
    from registry.catalog.queries import count_experts, list_experts

    if limit is None and not as_json:
        limit = ROWS_OF_A_TABLE
    with open_registry(ctx) as registry:
        count = count_experts(registry, seed=seed, include_withdrawn=withdrawn)
        experts = list_experts(registry, seed=seed, include_withdrawn=withdrawn, limit=limit, offset=offset)
    rows = [expert_row(expert) for expert in experts]
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
    nothing = (
        f"no experts at this offset: there are {plural(count, 'expert')}"
        if count
        else "no experts yet: nexusmix contribute, or nexusmix demo"
    )
    print_table(rows, columns, empty=nothing)
    if 0 < len(rows) < count:
        note(
            f"{offset + 1:,} to {offset + len(rows):,} of {plural(count, 'expert')}; for more use --limit, --offset"
        )
