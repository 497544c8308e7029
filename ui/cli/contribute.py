"""`nexusmix contribute`: check an expert against its seed, store it and publish its next version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from registry.domains.skipped import in_words
from ui.cli.kit.context import Data, Description, Json, License, TextColumn, examples, open_registry
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
        str, typer.Argument(metavar="NAME", help="Name of the expert. An existing name gets a new version.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="Folder of the expert or of its LoRA adapter, or hf:OWNER/NAME\\[@REVISION]."
        ),
    ],
    seed: Annotated[str, typer.Option(metavar="SEED", help="The seed that the expert was fine-tuned from.")],
    license: License,
    data: Data = None,
    text_column: TextColumn = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Held-out text for evaluation. Repeatable.",
            show_default="1 in 20 documents of --data",
        ),
    ] = None,
    embedding: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Instead of --data: an embedding file written by `nexusmix embed`."
        ),
    ] = None,
    description: Description = "",
    allow_unchanged: Annotated[
        bool, typer.Option("--allow-unchanged", help="Accept weights that are equal to the seed's.")
    ] = False,
    allow_unrelated: Annotated[
        bool, typer.Option("--allow-unrelated", help="Accept weights that were not trained from the seed.")
    ] = False,
    allow_other_base: Annotated[
        bool,
        typer.Option(
            "--allow-other-base",
            help="Accept a LoRA adapter whose base model has another name but the same weights as the seed.",
        ),
    ] = False,
    draft: Annotated[
        bool,
        typer.Option("--draft", help="Publish it later: until `nexusmix publish`, only NAME@N finds it."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish an expert: a seed fine-tuned on one domain.

    The configuration, tokenizer and tensors are checked against the seed's before any expensive work. The
    weights are split into FFNs and trunk and stored once. The text describes the expert's domain; for private
    text, only its embedding is needed.
    """
    if bool(data) == (embedding is not None):
        raise typer.BadParameter(
            "give either --data (text) or --embedding (a file written by `nexusmix embed`)"
        )
    from composer.experts.contribution import contribute as run

    with open_registry(ctx) as registry, progress() as report:
        expert = run(
            registry,
            name,
            source,
            seed=seed,
            license=license,
            data=data or (),
            text_column=text_column,
            held_out=held_out or (),
            embedding=embedding,
            description=description,
            allow_unchanged=allow_unchanged,
            allow_unrelated=allow_unrelated,
            allow_other_base=allow_other_base,
            draft=draft,
            progress=report,
        )
    shape = expert_shape(expert)
    if as_json:
        print_json(shape)
        return
    left_out = in_words(expert.provenance.get("skipped", {}))
    trunk = "the seed's own (anchored)" if expert.anchored else expert.trunk
    weights = {"ffn": expert.ffn, "trunk": trunk}
    if expert.difference is not None:
        weights = {"low-rank difference": expert.difference}
    print_fields(
        {
            "expert": expert.ref,
            "seed": expert.seed,
            "licence": expert.license,
            "parameters": parameters(expert.parameters),
            **weights,
            "skipped": left_out,
        }
    )
    note(f"next: nexusmix show {expert.ref}, or nexusmix compose NAME --seed {expert.seed} --experts A,B,C")
