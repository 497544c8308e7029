"""`nexusmix worker`: execute the runs of the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples(
    "nexusmix worker",
    "nexusmix worker --once",
    "nexusmix worker --executor ray --address http://head:8265",
)


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
    run: Annotated[
        int | None, typer.Option(metavar="N", help="Execute this run only, if no worker has it, and exit.")
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar="NEXUSMIX_EXECUTOR",
            help="Where runs are executed. local: here, one by one; ray, slurm: as jobs of this system, each with the "
            "cores, cards and memory that it needs.",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="NEXUSMIX_RAY_ADDRESS",
            help="Address of the Ray cluster's dashboard.",
            show_default="$RAY_ADDRESS, else http://127.0.0.1:8265",
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="NEXUSMIX_SLURM_TEMPLATE",
            help="Batch script for Slurm, with @resources and @command.",
            show_default="a short script",
        ),
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, metavar="N", help="Cores of each job of ray or slurm.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Most jobs of ray or slurm at a time.")] = 16,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="Exit at the end of standard input.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Execute queued runs one by one, until Ctrl-C.

    Each run is executed in a separate process. If the process dies, this worker or another one tries the run
    again from its last checkpoint. Any number of workers can share a registry.
    """
    if executor != "local":
        if once or run is not None:
            raise typer.BadParameter("--once and --run are for --executor local")
        _dispatch(ctx, executor, address, template, cpus, jobs, with_parent, as_json)
        return
    from ui.queue.worker import Worker, default_name

    with open_registry(ctx) as registry:
        worker = Worker(registry, name or default_name(), say=note)
        if not once and run is None:
            note(f"{worker.name} waits for runs of {registry.home}; press Ctrl-C to stop it")
        worked = worker.work(once=once, with_parent=with_parent, run_id=run)
    if as_json:
        print_json({"worker": worker.name, "runs": worked})


def _dispatch(
    ctx: typer.Context,
    executor: str,
    address: str | None,
    template: Path | None,
    cpus: int,
    jobs: int,
    with_parent: bool,
    as_json: bool,
) -> None:
    """Start a job of another system for each queued run, until Ctrl-C."""
    from ui.queue.dispatcher import Dispatcher
    from ui.queue.executors import executor_named

    with open_registry(ctx) as registry:
        chosen = executor_named(executor, address=address, template=template, logs=registry.home / "jobs")
        note(f"starts jobs of {executor} for the runs of {registry.home}; press Ctrl-C to stop it")
        started = Dispatcher(registry, chosen, say=note, cpus=cpus, most=jobs).work(with_parent=with_parent)
    if as_json:
        print_json({"executor": executor, "jobs": started})
