"""A model's reading of a text: the bits that each token costs, and for a mix the experts that predicted it.

Shape suffixes: R rows, S tokens per row, T tokens of a forward pass, K experts per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from composer.bits_per_byte import token_nats
from composer.errors import RecipeError
from composer.mix.masking import mask, places
from composer.mix.opening import OpenMix, OpenSeed
from composer.training.data import separator

MOST_TOKENS = 4_000
WINDOW = 1024  # tokens; a longer one needs more memory for its logits than it gains in context


@dataclass(frozen=True)
class ReadToken:
    """A token of the text, and its cost in bits.

    `experts` and `blocks` are the routing of its prediction, as in `composer.generation.Token`.
    """

    text: str
    bits: float
    experts: dict[str, float]
    blocks: list[dict[str, float]]


@dataclass(frozen=True)
class Reading:
    """The tokens of a text, and whether text was left out after MOST_TOKENS of them."""

    tokens: list[ReadToken]
    is_cut: bool

    @property
    def bits(self) -> float:
        """Bits of the whole text."""
        return sum(token.bits for token in self.tokens)


def read(opened: OpenMix | OpenSeed, text: str, *, active_experts: Sequence[str] | None = None) -> Reading:
    """Read a text with forward passes only. `active_experts` masks the other experts of a mix.

    The text is read in windows of at most WINDOW tokens, or of the model's context. Two models with one tokenizer
    have the same tokens. Raises RecipeError for a text without tokens, or for `active_experts` that are not members.
    """
    encoded = opened.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, ends = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
    if not ids:
        raise RecipeError("the text has no tokens: enter some text")
    is_cut = len(ids) > MOST_TOKENS
    ids, ends = ids[:MOST_TOKENS], ends[:MOST_TOKENS]
    start = separator(opened.tokenizer)
    stream = torch.tensor([*start, *ids])
    model = opened.model
    length = min(WINDOW, model.config.get_text_config().max_position_embeddings)
    windows = [stream[at : at + length + 1] for at in range(0, len(stream) - 1, length)]
    routing = _Routing(opened)
    active = places(opened.manifest, active_experts) if isinstance(opened, OpenMix) else None
    with mask(model, active):
        nats = _nats(model, windows, routing.collect)
    # Without a token before it, the first one has no prediction.
    bits = [0.0] * (1 - len(start)) + [each / math.log(2) for each in nats]
    chosen = routing.of_tokens()
    chosen = [({}, [])] * (len(ids) - len(chosen)) + chosen
    texts = [text[before:end] for before, end in zip([0, *ends], ends, strict=False)]
    tokens = [
        ReadToken(*each, *choice) for each, choice in zip(zip(texts, bits, strict=True), chosen, strict=True)
    ]
    return Reading(tokens, is_cut)


def _nats(model: Any, windows: Sequence[torch.Tensor], after_batch: Callable[[], None]) -> list[float]:
    """Return −log p of every token except the first of the stream; the windows overlap by one token."""
    full = [window for window in windows if len(window) == len(windows[0])]
    rest = [window for window in windows if len(window) != len(windows[0])]
    found: list[float] = []
    for rows_RS in [torch.stack(full), *(window[None] for window in rest)] if full else []:
        found += token_nats(model, rows_RS, after_batch).flatten().tolist()
    return found


class _Routing:
    """The choices of a mix's blocks, collected after each forward pass; nothing for a dense model."""

    def __init__(self, opened: OpenMix | OpenSeed) -> None:
        self._mixtures = opened.model.mixtures() if isinstance(opened, OpenMix) else []
        self._refs = (
            [member.expert.ref for member in opened.manifest.members] if isinstance(opened, OpenMix) else []
        )
        self._passes: list[list[tuple[list[list[int]], list[list[float]]]]] = []

    def collect(self) -> None:
        """Add the choices of the last forward pass: per block, experts and weights [T, K]."""
        self._passes.append(
            [(each.routing.chosen.tolist(), each.routing.weights.tolist()) for each in self._mixtures]
        )

    def of_tokens(self) -> list[tuple[dict[str, float], list[dict[str, float]]]]:
        """Return each predicted token's shares by expert, and its choice in each block."""
        return [
            self._token([(chosen[place], weights[place]) for chosen, weights in blocks])
            for blocks in self._passes
            for place in range(len(blocks[0][0]) if blocks else 0)
        ]

    def _token(
        self, choices: Sequence[tuple[list[int], list[float]]]
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        # An index past the last expert, or a weight of 0, means that no expert was chosen.
        blocks = [
            {
                self._refs[place]: weight
                for place, weight in zip(chosen, weights, strict=True)
                if place < len(self._refs) and weight > 0
            }
            for chosen, weights in choices
        ]
        total = max(1, sum(map(len, blocks)))
        return {ref: sum(ref in block for block in blocks) / total for ref in self._refs}, blocks
