"""`nexusmix generate`: continue a prompt with a mix."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from ui.cli.kit.context import Json, MixRef, examples, open_registry, warn_of_withdrawn
from ui.cli.kit.output import note, print_json
from ui.cli.kit.sampling import Choices, generates, summary
from ui.wording.display import printable

EXAMPLES = examples('nexusmix generate team "def quicksort(" --max-new-tokens 80')


@generates(max_new_tokens=100)
def generate(
    ctx: typer.Context,
    mix: MixRef,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    choices: Choices,
    as_json: Json = False,
) -> None:
    """Continue a prompt with a mix.

    The prompt is used unchanged. To talk to a mix of chat models, use the command chat.
    """
    from composer.generation import generate as run

    def write(piece: str) -> None:
        sys.stdout.write(printable(piece, lines=True))
        sys.stdout.flush()

    with open_registry(ctx) as registry:
        warn_of_withdrawn(registry, mix)
        if not as_json:
            write(prompt)
        result = run(
            registry,
            mix,
            prompt,
            **dataclasses.asdict(choices.sampling),
            active_experts=choices.experts,
            on_token=None if as_json else lambda token: write(token.text),
        )
    if as_json:
        print_json({"mix": mix, "prompt": prompt, **dataclasses.asdict(result)})
    else:
        write("\n")
        note(summary(result))
