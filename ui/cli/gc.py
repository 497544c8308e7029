"""`nexusmix gc`: remove unreferenced files of the blob store."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json
from ui.wording.display import plural, size

EXAMPLES = examples("nexusmix gc --dry-run", "nexusmix gc --grace 48")


def gc(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report the blobs that would be removed.")
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="HOURS",
            help="Keep files that are newer than this, because active work may need them.",
        ),
    ] = 24.0,
    adopt_store: Annotated[
        bool,
        typer.Option(
            "--adopt-store",
            help="Make this database the only owner of the store. Use it only if no other database needs the blobs.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove unreferenced blobs and the leftovers of killed work.

    The command refuses to run if another database may use the same store; see --adopt-store.
    """
    from datetime import timedelta

    from registry.catalog.gc import collect

    with open_registry(ctx, frees_room=True) as registry:
        garbage = collect(registry, grace=timedelta(hours=grace), dry_run=dry_run, adopt=adopt_store)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "blobs": list(garbage.blobs),
                "bytes": garbage.size,
                "unfinished": [str(leftover.path) for leftover in garbage.unfinished],
                "unfinished_bytes": sum(leftover.size for leftover in garbage.unfinished),
            }
        )
        return
    found = f"{plural(len(garbage.blobs), 'blob')} ({size(garbage.size)})"
    unfinished = plural(len(garbage.unfinished), "piece") + " of unfinished work"
    left = size(sum(leftover.size for leftover in garbage.unfinished))
    note(f"{'would remove' if dry_run else 'removed'} {found} and {unfinished} ({left})")
