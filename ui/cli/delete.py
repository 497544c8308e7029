"""`nexusmix delete`: delete one version of a mix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json
from ui.wording.display import size

if TYPE_CHECKING:
    from registry.catalog.deletion import Deleted

EXAMPLES = examples("nexusmix delete team@2 --dry-run", "nexusmix delete team@2")


def delete(
    ctx: typer.Context,
    mix: Annotated[str, typer.Argument(metavar="MIX@N", help="The version to delete.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report how much space would be freed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete one version of a mix.

    The experts are not deleted. The version number is never reused. The
    lock is kept: composing it again gives the same bytes. Afterwards,
    `nexusmix gc` frees the disk space.
    """
    from registry.catalog.deletion import delete_mix

    with open_registry(ctx, frees_room=True) as registry:
        deleted = delete_mix(registry, mix, dry_run=dry_run)
    print_deleted("mix", deleted, dry_run=dry_run, as_json=as_json)


def print_deleted(kind: str, deleted: Deleted, *, dry_run: bool, as_json: bool) -> None:
    """Print what was deleted, or would be; `kind` is its key in JSON."""
    if as_json:
        print_json({"dry_run": dry_run, kind: deleted.name, "freed": deleted.freed})
    else:
        done = "would be deleted" if dry_run else "is deleted"
        note(f"{deleted.name} {done}; `nexusmix gc` then frees {size(deleted.freed)}")
