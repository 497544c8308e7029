"""`nexusmix export`: write a mix as a folder that runs without the registry."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from composer.variants import EXPORT_FORMATS
from ui.cli.kit.context import Json, MixRef, examples, open_registry, warn_of_withdrawn
from ui.cli.kit.output import print_fields, print_json, progress
from ui.wording.display import size

EXAMPLES = examples(
    "nexusmix export team ./team",
    "nexusmix export team ./team-qwen --format qwen2_moe --dtype bfloat16",
    "nexusmix export team ./team-gguf --format gguf --dtype q8_0",
    "nexusmix export team ./team-q4 --format gguf --quantize Q4_K_M",
)


def export(
    ctx: typer.Context,
    mix: MixRef,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to create for the model.")],
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"One of {EXPORT_FORMATS.choices()}.")
    ] = "nexus",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="float32, bfloat16, float16 or, for gguf only, q8_0.",
            show_default="the seed's type",
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="For gguf: Q4_K_M, Q6_K …, through llama.cpp's llama-quantize."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a mix as a Hugging Face folder, or as a GGUF file in a folder.

    The folder is written completely or not at all. A mix that the format cannot represent exactly is refused.
    """
    from composer.formats import export as write

    with open_registry(ctx) as registry, progress() as report:
        warn_of_withdrawn(registry, mix)
        written = write(registry, mix, folder, format=format, dtype=dtype, quantize=quantize, progress=report)
    shape = {**dataclasses.asdict(written), "folder": str(written.folder)}
    if as_json:
        print_json(shape)
    else:
        print_fields({**shape, "bytes": size(written.bytes)})
