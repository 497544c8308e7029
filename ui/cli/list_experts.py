"""`nexusmix list`: the experts of the registry."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ui.cli.kit.context import Json, SeedFilter, examples, open_registry
from ui.cli.kit.output import Column, note, print_json, print_table
from ui.wording.display import parameters, plural
from ui.wording.shapes import expert_row

EXAMPLES = examples(
    "nexusmix list",
    "nexusmix list --seed smol --license MIT --sort largest --limit 50",
    "nexusmix list --tag legal --json",
)
ROWS_OF_A_TABLE = 100
ROWS_A_TIME = 500
MOST_COUNTED = 10_000


def list_experts(
    ctx: typer.Context,
    seed: SeedFilter = None,
    license: Annotated[str | None, typer.Option(metavar="SPDX", help="Only this licence.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="WORD", help="Only experts with this tag.")] = None,
    author: Annotated[str | None, typer.Option(metavar="NAME", help="Only experts of this author.")] = None,
    sort: Annotated[str, typer.Option(metavar="ORDER", help="name, newest, smallest or largest.")] = "name",
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Include drafts, withdrawn and purged versions.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum number of experts to list.",
            show_default=f"{ROWS_OF_A_TABLE} in a table, all with --json",
        ),
    ] = None,
    cursor: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The next page after an earlier list, which prints its cursor."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the experts.

    A cursor continues where a page ended, however long the list is, even if experts were published since.
    """
    from registry.catalog.queries import Sides, count_experts, page_experts

    if limit is None and not as_json:
        limit = ROWS_OF_A_TABLE
    sides: Sides = {"seed": seed, "license": license, "tag": tag, "author": author}
    with open_registry(ctx) as registry:
        rows: list[dict[str, Any]] = []
        more = True
        while more and (limit is None or len(rows) < limit):
            size = ROWS_A_TIME if limit is None else min(ROWS_A_TIME, limit - len(rows))
            page = page_experts(
                registry,
                order=sort,  # type: ignore[arg-type]
                limit=size,
                cursor=cursor,
                include_withdrawn=withdrawn,
                **sides,
            )
            rows += [expert_row(expert) for expert in page.experts]
            cursor, more = page.next, page.next is not None
        count = 0
        if not as_json:
            count = count_experts(registry, include_withdrawn=withdrawn, at_most=MOST_COUNTED, **sides)
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
        columns += [Column("state", "State"), Column("withdrawn", "Withdrawn", style="yellow")]
    found = "no experts on this page" if count else "no experts yet: nexusmix contribute, or nexusmix demo"
    print_table(rows, columns, empty=found)
    if more:
        of = f"{plural(count, 'expert')}{' or more' if count == MOST_COUNTED else ''}"
        note(f"{len(rows):,} of {of}; the next page: --cursor {cursor}")
