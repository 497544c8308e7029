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
        bool, typer.Option("--once", help="Execute one run and leave; leave at once when none waits.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Shown beside its runs; else machine and process.")
    ] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="Leave when standard input ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Execute queued runs one by one, until Ctrl-C.

    Each runs in a process of its own. One that dies is tried again from its last checkpoint, by this worker
    or by another; any number of workers may share a registry.
    """
    from ui.queue.worker import Worker, default_name

    with open_registry(ctx) as registry:
        worker = Worker(registry, name or default_name(), say=note)
        if not once:
            note(f"{worker.name} waits for runs of {registry.home}; Ctrl-C ends it")
        worked = worker.work(once=once, with_parent=with_parent)
    if as_json:
        print_json({"worker": worker.name, "runs": worked})
