"""`nexusmix generate`: continue a prompt with a mix."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ui.cli.context import Json, MixRef, RandomSeed, examples, open_registry
from ui.cli.output import print_json
from ui.display import printable

EXAMPLES = examples('nexusmix generate team "def quicksort(" --max-new-tokens 80')


def generate(
    ctx: typer.Context,
    mix: MixRef,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="How many tokens to add.")] = 100,
    random_seed: RandomSeed = 0,
    as_json: Json = False,
) -> None:
    """Continue a prompt with a mix."""
    from composer.generate import generate as run

    def write(piece: str) -> None:
        sys.stdout.write(printable(piece, lines=True))
        sys.stdout.flush()

    with open_registry(ctx) as registry:
        if not as_json:
            write(prompt)
        result = run(
            registry,
            mix,
            prompt,
            max_new_tokens=max_new_tokens,
            random_seed=random_seed,
            on_token=None if as_json else write,
        )
    if as_json:
        print_json({"mix": mix, "prompt": prompt, "text": result.text, "tokens": result.tokens})
    else:
        write("\n")
