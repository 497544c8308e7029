"""`nexusmix verify`: hash the stored data, or an exported folder, again and compare it with its digests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.failures import INCOMPATIBLE
from ui.cli.kit.output import note, print_json, print_text, progress

EXAMPLES = examples("nexusmix verify", "nexusmix verify python@1", "nexusmix verify ./team --key key.pub")


def verify(
    ctx: typer.Context,
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The expert, seed or mix to check; with --key, an exported folder.",
            show_default="everything",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Public key in PEM of the person who signed the folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that all stored data matches its digests.

    With --key, check that a signed folder is complete and unchanged, without a registry (extra `sign`). Exits with
    code 4 if data is missing or damaged.
    """
    if key is not None:
        _verify_folder(ref, key, as_json)
        return
    from registry.catalog.queries import verify as find_problems

    with open_registry(ctx) as registry, progress() as report:
        problems = find_problems(registry, ref, progress=report)
    if as_json:
        print_json({"ok": not problems, "problems": [dataclasses.asdict(problem) for problem in problems]})
    else:
        for problem in problems:
            print_text(f"{problem.owner}: {problem.message}")
        if not problems:
            note(f"verified: {f'every blob of {ref}' if ref else 'every blob'} matches its digest")
    if problems:
        raise typer.Exit(INCOMPATIBLE)


def _verify_folder(folder: str | None, key: Path, as_json: bool) -> None:
    from composer.formats.signing import verify as check

    if folder is None:
        raise typer.BadParameter("--key needs the folder to verify, such as ./team")
    check(folder, key)
    if as_json:
        print_json({"ok": True, "problems": []})
    else:
        note(f"verified: {folder} is complete, unchanged, and signed with the private key of {key}")
