"""`nexusmix generate`: continue a prompt with a mix."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
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
from ui.wording.display import printable, share

EXAMPLES = examples('nexusmix generate team "def quicksort(" --max-new-tokens 80')


def generate(
    ctx: typer.Context,
    mix: MixRef,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    max_new_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of tokens to generate.")
    ] = 100,
    temperature: Annotated[
        float,
        typer.Option(
            min=0, metavar="X", help="Sampling temperature. 0 always selects the most likely token."
        ),
    ] = 0.8,
    random_seed: RandomSeed = 0,
    active_experts: ActiveExperts = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt with a mix."""
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
            active_experts=parse_names(active_experts),
            on_token=None if as_json else lambda token: write(token.text),
        )
    if as_json:
        print_json({"mix": mix, "prompt": prompt, **dataclasses.asdict(result)})
    else:
        write("\n")
        shares = _mean_shares([token.experts for token in result.tokens])
        note(", ".join(f"{ref} {share(part)}" for ref, part in shares.items()))


def _mean_shares(tokens: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean share of each expert over all generated tokens."""
    refs = tokens[0] if tokens else {}
    return {ref: sum(token[ref] for token in tokens) / len(tokens) for ref in refs}
