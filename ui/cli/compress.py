"""`nexusmix compress`: make a LoRA adapter of a full fine-tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_fields, print_json, progress

EXAMPLES = examples("nexusmix compress ./law --seed smol --rank 64 --out ./law-adapter")


def compress(
    ctx: typer.Context,
    expert: Annotated[Path, typer.Argument(metavar="DIR", help="The expert's checkpoint.")],
    seed: Annotated[str, typer.Option(metavar="SEED", help="The seed it was fine-tuned from.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to create for the adapter, in PEFT format.")
    ],
    rank: Annotated[
        int, typer.Option(min=1, metavar="N", help="Rank of the differences: more keeps more and is larger.")
    ] = 64,
    as_json: Json = False,
) -> None:
    """Make a LoRA adapter of a full fine-tune, by singular value decomposition.

    An adapter needs a tenth of the bytes, and many of them fit in memory next to one seed.
    The share of the change that is kept is printed.
    """
    import dataclasses

    from composer.experts.compression import compress as write_adapter

    with open_registry(ctx) as registry, progress() as report:
        found = write_adapter(registry, seed, expert, out, rank=rank, progress=report)
    if as_json:
        print_json({**dataclasses.asdict(found), "folder": str(found.folder)})
        return
    shares = {"kept": f"{found.kept:.1%}", "of the projections": f"{found.kept_of_projections:.1%}"}
    print_fields({"folder": str(found.folder), "rank": found.rank, **shares, "bytes": found.bytes})
    note(f"next: nexusmix contribute NAME {out} --seed {seed} --license SPDX --data TEXT")
