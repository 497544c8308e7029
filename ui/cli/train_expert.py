"""`nexusmix train-expert`: fine-tune a seed on the text of one domain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from registry.domains.skipped import in_words
from ui.cli.kit.context import Json, RandomSeed, TextColumn, examples, open_registry, parse_count
from ui.cli.kit.output import note, print_fields, print_json, progress

EXAMPLES = examples(
    "nexusmix train-expert --seed smol --data ./python-docs --out ./python --tokens 1M",
    "nexusmix train-expert --seed smol --data law.jsonl --out ./law --freeze-trunk",
)


def train_expert(
    ctx: typer.Context,
    seed: Annotated[str, typer.Option(metavar="SEED", help="The seed to fine-tune.")],
    data: Annotated[list[Path], typer.Option(metavar="PATH", help="Text to train on. Repeatable.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to create for the expert, in Hugging Face format.")
    ],
    tokens: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Tokens to train on, as in 300k or 1M.")
    ] = 500_000,
    text_column: TextColumn = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Jinja template for rows of messages; it is written to the expert's folder.",
            show_default="the seed's",
        ),
    ] = None,
    freeze_trunk: Annotated[
        bool,
        typer.Option(
            "--freeze-trunk", help="Train only the FFNs. Such an anchored expert keeps its loss in a mix."
        ),
    ] = False,
    learning_rate: Annotated[
        float | None,
        typer.Option(metavar="X", help="Peak learning rate of the schedule.", show_default="0.001"),
    ] = None,
    random_seed: RandomSeed = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune a seed on one domain.

    One document in 20, chosen by its hash, is held out and never used for training. Of rows with messages, or with a
    question and its answer, only the answers count in the loss.
    """
    import dataclasses

    from composer.experts.train import train_expert as branch

    chosen: dict[str, Any] = {} if learning_rate is None else {"learning_rate": learning_rate}
    with open_registry(ctx) as registry, progress() as report:
        result = branch(
            registry,
            seed,
            data,
            out,
            tokens=tokens,
            text_column=text_column,
            chat_template=chat_template,
            freeze_trunk=freeze_trunk,
            random_seed=random_seed,
            progress=report,
            **chosen,
        )
    fields = dataclasses.asdict(result).items()
    shape = {name: str(value) if isinstance(value, Path) else value for name, value in fields}
    if as_json:
        print_json(shape)
    else:
        print_fields({**shape, "skipped": in_words(result.skipped)})
        note(f"next: nexusmix contribute NAME {out} --seed {seed} --license SPDX --data {data[0]}")
