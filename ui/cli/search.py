"""`nexusmix search`: find experts whose domain is similar to a task or a sample of text."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, SeedFilter, examples, open_registry
from ui.cli.kit.output import Column, note, print_json, print_table
from ui.wording.display import parameters
from ui.wording.shapes import hit_row

PASSAGE_CHARS = 160
EXAMPLES = examples(
    'nexusmix search "prove a theorem about integrals"',
    "nexusmix search --like ./my-notes --seed smol --limit 3",
)


def search(
    ctx: typer.Context,
    query: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Description of a task or a topic.")
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Instead of TEXT: files or folders of sample text, or an embedding file. Repeatable.",
        ),
    ] = None,
    seed: SeedFilter = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Maximum number of experts.")] = 10,
    as_json: Json = False,
) -> None:
    """Find experts by meaning.

    The score is the mean of two cosines with the query: of the expert's nearest texts, and of its name.
    """
    if (query is None or not query.strip()) == (not like):
        raise typer.BadParameter("give either TEXT or --like PATH")
    from registry.catalog.queries import search as find
    from ui.query import closeness, vector_of_files

    with open_registry(ctx) as registry:
        what = vector_of_files(registry, like) if like else query
        assert what is not None  # guaranteed by the check above
        hits = find(registry, what, seed=seed, limit=limit)
    rows = [{**hit_row(hit), "match": closeness(hit.score, request=not like)} for hit in hits]
    if as_json:
        print_json(rows)
        return
    columns = [
        Column("score", "Score", show="{:.2f}".format, justify="right"),
        Column("match", "Match"),
        Column("expert", "Expert", style="bold"),
        Column("seed", "Seed"),
        Column("license", "Licence"),
        Column("parameters", "Parameters", show=parameters, justify="right"),
        Column("anchored", "Anchored"),
        Column("description", "About"),
    ]
    print_table(rows, columns, empty="no experts to search: nexusmix contribute, or nexusmix demo")
    for row in rows:
        if row["passage"] is not None:
            note(f"{row['expert']}: “{textwrap.shorten(row['passage'], PASSAGE_CHARS, placeholder=' …')}”")
    if rows and all(row["match"] == "none" for row in rows):
        note("no expert fits this well")
