"""`nexusmix withdraw`: take a version out of search and new mixes, with a reason that stays on record."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import ExpertRef, Json, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples('nexusmix withdraw python@1 --reason "trained on text that had to be deleted"')


def withdraw(
    ctx: typer.Context,
    ref: ExpertRef,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; everybody who asks for it sees this.")],
    as_json: Json = False,
) -> None:
    """Take an expert out of search and new mixes.

    Mixes that already hold it keep working; recompose them without
    it to take it out of use.
    """
    from registry.catalog.queries import withdraw as take_back

    with open_registry(ctx) as registry:
        expert = take_back(registry, ref, reason)
    if as_json:
        print_json({"expert": expert.ref, "withdrawn": expert.withdrawn})
    else:
        note(f"{expert.ref} is withdrawn: {expert.withdrawn}")
