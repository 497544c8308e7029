"""`nexusmix worker`: execute the runs of the queue."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples("nexusmix worker", "nexusmix worker --once")


def worker(
    ctx: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="Execute one run and exit; exit at once if no run is queued.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name shown with its runs.", show_default="host name and process id"
        ),
    ] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="Exit at the end of standard input.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Execute queued runs one by one, until Ctrl-C.

    Each run is executed in a separate process. If the process dies, this worker or another one tries the run
    again from its last checkpoint. Any number of workers can share a registry.
    """
    from ui.queue.worker import Worker, default_name

    with open_registry(ctx) as registry:
        worker = Worker(registry, name or default_name(), say=note)
        if not once:
            note(f"{worker.name} waits for runs of {registry.home}; press Ctrl-C to stop it")
        worked = worker.work(once=once, with_parent=with_parent)
    if as_json:
        print_json({"worker": worker.name, "runs": worked})
