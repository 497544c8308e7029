"""Options of the commands that generate text, and the line about the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ui.wording.display import share

if TYPE_CHECKING:
    from composer.generation import Generation

SAMPLING = "Sampling"
MaxNewTokens = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Maximum number of tokens to generate.", rich_help_panel=SAMPLING),
]
Temperature = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="X",
        help="Sampling temperature. 0 always selects the most likely token.",
        rich_help_panel=SAMPLING,
    ),
]
SampledTopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        min=0,
        max=1,
        metavar="P",
        help="Sample from the fewest tokens whose probabilities sum to P.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        min=0, metavar="K", help="Sample from the K most likely tokens. 0 is all.", rich_help_panel=SAMPLING
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="A text that ends the generation. Repeatable.", rich_help_panel=SAMPLING
    ),
]


def summary(result: Generation) -> str:
    """Describe a generation: its length, its speed and the shares of the experts."""
    parts = [f"{len(result.tokens)} tokens, {result.speed:.1f} tokens/s"]
    shares = mean_shares([token.experts for token in result.tokens])
    if shares:
        parts.append(", ".join(f"{ref} {share(part)}" for ref, part in shares.items()))
    return "; ".join(parts)


def mean_shares(tokens: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean share of each expert over all generated tokens."""
    refs = tokens[0] if tokens else {}
    return {ref: sum(token[ref] for token in tokens) / len(tokens) for ref in refs}
