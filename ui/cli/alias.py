"""`nexusmix alias`: a movable name for one version of an expert."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples(
    "nexusmix alias law@stable law@3",
    "nexusmix alias law@stable law@4 --from law@3",
    "nexusmix alias law@stable --delete",
)
NOTHING = "none"


def alias(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME@WORD", help="The alias.")],
    expert: Annotated[
        str | None,
        typer.Argument(metavar="NAME@N", help="The version to point to. Without it, show the current one."),
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME@N",
            help=f"Change the alias only if it points to this version now, or '{NOTHING}': only if it is not set.",
        ),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the alias.")] = False,
    as_json: Json = False,
) -> None:
    """Set, show or delete an alias: a movable name for one version of an expert.

    Every command that expects an expert also accepts NAME@WORD. A mix is
    pinned to the version that the alias points to when it is composed.
    """
    if delete and expert is not None:
        raise typer.BadParameter("give a version or --delete, not both")
    from registry.catalog.aliases import UNCHECKED, point
    from registry.catalog.queries import get_expert

    with open_registry(ctx) as registry:
        if delete or expert is not None:
            seen = UNCHECKED if expected is None else None if expected == NOTHING else expected
            point(registry, name, expert, expected=seen)
        target = None if delete else get_expert(registry, name).ref
    if as_json:
        print_json({"alias": name, "expert": target})
    else:
        note(f"{name} points to {target}" if target else f"{name} is deleted")
