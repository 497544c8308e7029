"""`nexusmix contribute`: check an expert against its seed, store it and publish its next version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Data, Description, Json, License, examples, open_registry
from ui.cli.kit.output import note, print_fields, print_json, progress
from ui.wording.display import parameters
from ui.wording.shapes import expert_shape

EXAMPLES = examples(
    "nexusmix contribute python ./python-expert --seed smol --license Apache-2.0 --data ./python-docs",
    "nexusmix contribute law hf:acme/smol-law@v2 --seed smol --license MIT --data ./statutes",
    "nexusmix contribute clinical ./expert --seed smol --license MIT --embedding clinical.json",
)


def contribute(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The expert's name; contributing again is a new version.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="Folder of the expert or of its LoRA adapter, or hf:OWNER/NAME[@REVISION]."
        ),
    ],
    seed: Annotated[str, typer.Option(metavar="SEED", help="The seed that it was fine-tuned from.")],
    license: License,
    data: Data = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Text kept for evaluation; else 1 document in 20 of --data."),
    ] = None,
    embedding: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of --data: the file that `nexusmix embed` made from it."),
    ] = None,
    description: Description = "",
    allow_unchanged: Annotated[
        bool, typer.Option("--allow-unchanged", help="Accept weights that equal the seed's.")
    ] = False,
    allow_unrelated: Annotated[
        bool, typer.Option("--allow-unrelated", help="Accept weights that were not trained from the seed.")
    ] = False,
    allow_other_base: Annotated[
        bool,
        typer.Option(
            "--allow-other-base",
            help="Accept a LoRA adapter that names another base model: the same weights under another name.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish an expert: a seed fine-tuned on one domain.

    Nothing heavy runs before its configuration, tokenizer and tensors have been held against the seed's. The
    weights are stored once, split into roles; the text (or, for private text, only its embedding) says what
    the expert is for.
    """
    if bool(data) == (embedding is not None):
        raise typer.BadParameter("give either --data (text) or --embedding (a file made by `nexusmix embed`)")
    from composer.experts.contribution import contribute as run

    with open_registry(ctx) as registry, progress() as report:
        expert = run(
            registry,
            name,
            source,
            seed=seed,
            license=license,
            data=data or (),
            held_out=held_out or (),
            embedding=embedding,
            description=description,
            allow_unchanged=allow_unchanged,
            allow_unrelated=allow_unrelated,
            allow_other_base=allow_other_base,
            progress=report,
        )
    shape = expert_shape(expert)
    if as_json:
        print_json(shape)
        return
    trunk = "the seed's own (anchored)" if expert.anchored else expert.trunk
    print_fields(
        {
            "expert": expert.ref,
            "seed": expert.seed,
            "licence": expert.license,
            "parameters": parameters(expert.parameters),
            "ffn": expert.ffn,
            "trunk": trunk,
        }
    )
    note(f"next: nexusmix show {expert.ref}, or nexusmix compose NAME --seed {expert.seed} --experts A,B,C")
