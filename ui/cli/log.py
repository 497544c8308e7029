"""`nexusmix log`: the event log of the registry."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import Column, note, print_json, print_table
from ui.wording.shapes import event_shape

EXAMPLES = examples("nexusmix log", "nexusmix log --subject law@2", "nexusmix log --user alice --limit 20")


def log(
    ctx: typer.Context,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Only actions of this user.")] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="NAME@N", help="Only actions on this expert, mix, seed or run.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Number of events.")] = 50,
    before: Annotated[
        int | None, typer.Option(min=1, metavar="ID", help="Only events before this one, for the next page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List who changed what in the registry, newest first.

    Nobody can change or delete an event. Users of this machine have the prefix local.
    """
    from registry.catalog.events import list_events

    with open_registry(ctx) as registry:
        events = list_events(registry, actor=user, subject=subject, limit=limit, before=before)
    rows = [event_shape(event) for event in events]
    if as_json:
        print_json(rows)
        return
    columns = [
        Column("event", "Event", justify="right"),
        Column("at", "When"),
        Column("user", "Who"),
        Column("action", "What"),
        Column("subject", "Subject", style="bold"),
        Column("digest", "Digest"),
    ]
    print_table(rows, columns, empty="no events")
    if len(rows) == limit:
        note(f"for earlier events: nexusmix log --before {rows[-1]['event']}")
