"""`nexusmix generate`: continue a prompt with a mix."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from ui.cli.kit.context import (
    ActiveExperts,
    Json,
    MixRef,
    RandomSeed,
    examples,
    open_registry,
    parse_names,
)
from ui.cli.kit.output import note, print_json
from ui.cli.kit.sampling import MaxNewTokens, SampledTopP, Stop, Temperature, TopK, summary
from ui.wording.display import printable

EXAMPLES = examples('nexusmix generate team "def quicksort(" --max-new-tokens 80')


def generate(
    ctx: typer.Context,
    mix: MixRef,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    max_new_tokens: MaxNewTokens = 100,
    temperature: Temperature = 0.8,
    top_p: SampledTopP = 1.0,
    top_k: TopK = 0,
    stop: Stop = None,
    random_seed: RandomSeed = 0,
    active_experts: ActiveExperts = None,
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
        if not as_json:
            write(prompt)
        result = run(
            registry,
            mix,
            prompt,
            max_new_tokens=max_new_tokens,
            random_seed=random_seed,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=stop or (),
            active_experts=parse_names(active_experts),
            on_token=None if as_json else lambda token: write(token.text),
        )
    if as_json:
        print_json({"mix": mix, "prompt": prompt, **dataclasses.asdict(result)})
    else:
        write("\n")
        note(summary(result))
