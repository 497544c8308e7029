"""`nexusmix publish`, `purge` and `card`: the life of an expert version, and its tags, authors and README."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import ExpertRef, Json, examples, open_registry
from ui.cli.kit.output import note, print_json
from ui.wording.display import size
from ui.wording.shapes import expert_row

PUBLISH_EXAMPLES = examples("nexusmix contribute law ./law --seed smol … --draft", "nexusmix publish law@3")
PURGE_EXAMPLES = examples("nexusmix purge law@2 --dry-run", "nexusmix purge law@2", "nexusmix gc")
CARD_EXAMPLES = examples(
    "nexusmix card law --tag contracts --tag german --author 'Ada Lovelace' --readme ./README.md"
)


def publish(ctx: typer.Context, ref: ExpertRef, as_json: Json = False) -> None:
    """Publish a draft, so that lists, searches and references without a version find it."""
    from registry.catalog.lifecycle import publish_draft

    with open_registry(ctx) as registry:
        expert = publish_draft(registry, ref)
    if as_json:
        print_json(expert_row(expert))
    else:
        note(f"{expert.ref} is published")


def purge(
    ctx: typer.Context,
    expert: Annotated[str, typer.Argument(metavar="NAME@N", help="The withdrawn version to purge.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report the space and the mixes that need the version.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Release the bytes of a withdrawn expert version.

    Its name, reason and digests stay. Afterwards, `nexusmix gc` frees the disk space. Mixes that need the version
    refuse to run until they are composed without it; delete them to free their own weights too.
    """
    from registry.catalog.lifecycle import purge as run

    with open_registry(ctx, frees_room=True) as registry:
        purged = run(registry, expert, dry_run=dry_run)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "expert": purged.expert,
                "freed": purged.freed,
                "mixes": list(purged.mixes),
            }
        )
        return
    done = "would be purged" if dry_run else "is purged"
    note(f"{purged.expert} {done}; `nexusmix gc` then frees {size(purged.freed)}")
    for mix in purged.mixes:
        note(f"{mix} needs it: nexusmix remove {mix} {purged.expert}")


def card(
    ctx: typer.Context,
    ref: ExpertRef,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="A tag. Repeatable; replaces the present tags.")
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An author. Repeatable; replaces the present authors."),
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A README in Markdown, shown on the expert's page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set the tags, the authors or the README of an expert version; an empty value removes them."""
    if not tag and not author and readme is None:
        raise typer.BadParameter("give --tag, --author or --readme")
    from registry.catalog.lifecycle import describe

    with open_registry(ctx) as registry:
        expert = describe(
            registry,
            ref,
            tags=tag or None,
            authors=author or None,
            readme=None if readme is None else readme.read_text(encoding="utf-8", errors="replace"),
        )
    if as_json:
        print_json({**expert_row(expert), "authors": list(expert.authors)})
    else:
        note(
            f"{expert.ref}: tags {', '.join(expert.tags) or '–'}; authors {', '.join(expert.authors) or '–'}"
        )
