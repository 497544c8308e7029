"""A text as models read it (HTML): each token in its expert's colour over a bar of bits saved against the seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from ui.web.components import escaped
from ui.web.token_view import colour, top_expert
from ui.wording.display import share

MOST_BITS = 4.0  # a bar of full height
BAR_PIXELS = 8
PASSAGE_TOKENS = 40
NEARLY = 0.005  # a smaller difference counts as none
_SENTENCE_END = re.compile(r"[.!?;:\n]\s*$")


class Read(Protocol):
    """A token of the text with its cost in bits and its routing."""

    @property
    def text(self) -> str: ...
    @property
    def bits(self) -> float: ...
    @property
    def experts(self) -> dict[str, float]: ...
    @property
    def blocks(self) -> list[dict[str, float]]: ...


@dataclass(frozen=True)
class Passage:
    """A part of the text: its bits in the mix and in the seed, and the expert that predicts most of it."""

    text: str
    bits: float
    seed_bits: float
    expert: str | None

    @property
    def gain(self) -> float:
        """The share of the seed's bits that the mix saves; negative where it needs more."""
        return (self.seed_bits - self.bits) / self.seed_bits if self.seed_bits else 0.0


def lens_html(
    tokens: Sequence[Read], seed: Sequence[Read], experts: Sequence[str], block: int | None = None
) -> str:
    """The text. A bar below a token is green where the mix saves bits, red where it loses some."""
    parts = "".join(_token(token, dense, experts, block) for token, dense in zip(tokens, seed, strict=True))
    return f'<div class="nm-written nm-lens" tabindex="0">{parts}</div>'


def _token(token: Read, dense: Read, experts: Sequence[str], block: int | None) -> str:
    shares = token.experts if block is None else token.blocks[block] if token.blocks else {}
    first = top_expert(shares)
    saved = dense.bits - token.bits
    height = round(BAR_PIXELS * min(abs(saved), MOST_BITS) / MOST_BITS)
    hue = f"--hue:{colour(experts.index(first))};" if first else ""
    strength = f"--k:{12 + 26 * shares[first]:.0f}%;" if first else ""
    bar = f"--up:{height}px" if height else ""
    lost = " lost" if saved < 0 else ""
    said = f"{first or 'no expert'} · {token.bits:.1f} bits, seed {dense.bits:.1f}"
    return (
        f'<i class="t{lost}" style="{hue}{strength}{bar}" title="{escaped(said)}">'
        f"{escaped(token.text, lines=True)}</i>"
    )


def passages(tokens: Sequence[Read], seed: Sequence[Read]) -> list[Passage]:
    """Split the text at the ends of sentences and lines into passages of about PASSAGE_TOKENS tokens or more."""
    cuts = [0]
    for place, token in enumerate(tokens, 1):
        long = place - cuts[-1] >= 2 * PASSAGE_TOKENS
        if long or (place - cuts[-1] >= PASSAGE_TOKENS and _SENTENCE_END.search(token.text)):
            cuts.append(place)
    # A short rest is a part of the last passage.
    if len(cuts) > 1 and len(tokens) - cuts[-1] < PASSAGE_TOKENS // 2:
        cuts.pop()
    return [_passage(tokens[a:b], seed[a:b]) for a, b in pairwise([*cuts, len(tokens)])]


def _passage(tokens: Sequence[Read], seed: Sequence[Read]) -> Passage:
    shares: dict[str, float] = {}
    for token in tokens:
        for ref, amount in token.experts.items():
            shares[ref] = shares.get(ref, 0.0) + amount
    bits, dense = (sum(token.bits for token in side) for side in (tokens, seed))
    return Passage("".join(token.text for token in tokens).strip(), bits, dense, top_expert(shares))


def verdict(bits: float, other: float, name: str) -> str:
    """Compare the bits of two models: "14 % better than its seed"."""
    gain = (other - bits) / other if other else 0.0
    if abs(gain) < NEARLY:
        return f"as well as {name}"
    return f"{share(abs(gain))} {'better' if gain > 0 else 'worse'} than {name}"
