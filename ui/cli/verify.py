"""`nexusmix verify`: hash the stored data again and compare it with its digests."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.failures import INCOMPATIBLE
from ui.cli.kit.output import note, print_json, print_text, progress

EXAMPLES = examples("nexusmix verify", "nexusmix verify python@1")


def verify(
    ctx: typer.Context,
    ref: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The expert, seed or mix to check.", show_default="everything"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that all stored data matches its digests.

    Exits with code 4 if data is missing or damaged.
    """
    from registry.catalog.queries import verify as find_problems

    with open_registry(ctx) as registry, progress() as report:
        problems = find_problems(registry, ref, progress=report)
    if as_json:
        print_json({"ok": not problems, "problems": [dataclasses.asdict(problem) for problem in problems]})
    else:
        for problem in problems:
            print_text(f"{problem.owner}: {problem.message}")
        if not problems:
            note(f"verified: {f'every blob of {ref}' if ref else 'every blob'} matches its digest")
    if problems:
        raise typer.Exit(INCOMPATIBLE)
