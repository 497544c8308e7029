"""`nexusmix push`: upload an expert or a mix to the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from composer.variants import EXPORT_FORMATS
from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json, progress

EXAMPLES = examples("nexusmix push law@2 hf:acme/law", "nexusmix push team hf:acme/team --private")


def push(
    ctx: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The expert, or the mix if no expert has this name: NAME or NAME@N."
        ),
    ],
    target: Annotated[str, typer.Argument(metavar="hf:OWNER/NAME", help="Repository, created if needed.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as a private one.")
    ] = False,
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"For a mix: one of {EXPORT_FORMATS.choices()}.")
    ] = "nexus",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="For a mix: as in export.", show_default="the seed's type"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Upload an expert or a mix to the Hugging Face Hub, with a card and its digests.

    One commit contains everything. The token of `hf auth login` or HF_TOKEN must be allowed to write.
    """
    from composer.formats.push import push as run

    with open_registry(ctx) as registry, progress() as report:
        pushed = run(registry, ref, target, private=private, format=format, dtype=dtype, progress=report)
    if as_json:
        print_json({"pushed": pushed.ref, "repository": pushed.repository, "commit": pushed.commit})
    else:
        note(f"{pushed.ref} is hf:{pushed.repository}@{pushed.commit}")
