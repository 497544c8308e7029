"""`nexusmix withdraw`: exclude an expert version from search and new mixes, with a recorded reason."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import ExpertRef, Json, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples('nexusmix withdraw python@1 --reason "trained on text that had to be deleted"')


def withdraw(
    ctx: typer.Context,
    ref: ExpertRef,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason, shown to everyone who requests the expert.")
    ],
    as_json: Json = False,
) -> None:
    """Exclude an expert version from search and from new mixes.

    Existing mixes that contain it still work. To remove it from a mix,
    use `nexusmix remove`.
    """
    from registry.catalog.queries import withdraw as take_back

    with open_registry(ctx) as registry:
        expert = take_back(registry, ref, reason)
    if as_json:
        print_json({"expert": expert.ref, "withdrawn": expert.withdrawn})
    else:
        note(f"{expert.ref} is withdrawn: {expert.withdrawn}")
