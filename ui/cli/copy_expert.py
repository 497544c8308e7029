"""`nexusmix copy`: publish experts or mixes of this registry in another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json, progress
from ui.wording.shapes import expert_row, mix_shape

EXAMPLES = examples(
    "nexusmix copy law python@2 --to /data/team",
    "nexusmix copy --mix team --to /data/team",
    "nexusmix copy law --to ./team --database postgresql+psycopg://team@db/nexusmix --store s3://team/blobs",
)


def copy(
    ctx: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="Experts, or mixes with --mix: NAME or NAME@N.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Home of the other registry.")],
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Its database.", show_default="as its config.toml says")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Its blob store.", show_default="as its config.toml says"),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="NEXUSMIX_TARGET_TOKEN", metavar="TOKEN", help="Your token there. Prefer the variable."
        ),
    ] = None,
    mix: Annotated[bool, typer.Option("--mix", help="The names are mixes.")] = False,
    as_json: Json = False,
) -> None:
    """Publish experts or mixes of this registry in another one, with equal digests.

    Blobs that the other registry has are not copied again, and an expert with the same weights is not published again.
    A missing seed is copied too. A mix brings its experts, which keep their versions, and its parents.
    """
    from registry.catalog.copying import copy_expert, copy_mix
    from registry.home import open_registry as open_other

    other = open_other(to, database_url=database, store_url=store, token=token, own_settings=True)
    with open_registry(ctx) as registry, other, progress() as report:
        if mix:
            mixes = [copy_mix(registry, other, ref, progress=report) for ref in names]
            refs, rows = [each.ref for each in mixes], [mix_shape(each) for each in mixes]
        else:
            experts = [copy_expert(registry, other, ref, progress=report) for ref in names]
            refs, rows = [each.ref for each in experts], [expert_row(each) for each in experts]
    if as_json:
        print_json(rows)
    else:
        for ref in refs:
            note(f"{ref} is in {to}")
