"""Sampling settings of a generation, and the choice of the next token from its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from composer.errors import RecipeError

if TYPE_CHECKING:
    import torch

COLDEST = 1e-4  # a smaller temperature selects the most likely token; the division would overflow
HOTTEST = 100.0
MOST_SEEDS = 2**63
MOST_STOPS, LONGEST_STOP = 16, 1000


@dataclass(frozen=True)
class Sampling:
    """Length, sampling settings and stop strings of a generation.

    temperature: 0 selects the most likely token. top_p: sample from the fewest tokens whose probabilities sum to it.
    top_k: sample from that many tokens; 0 is all. stop: texts that end the generation; they are not part of it.

    Raises RecipeError for a value outside its range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    random_seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(0 <= self.temperature <= HOTTEST, "temperature", self.temperature, f"0 to {HOTTEST:.0f}")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (all tokens) or more")
        _require(0 <= self.random_seed < MOST_SEEDS, "random_seed", self.random_seed, "0 to 2^63 − 1")
        _require(len(self.stop) <= MOST_STOPS, "stop", f"{len(self.stop)} texts", f"at most {MOST_STOPS}")
        for text in self.stop:
            _require(
                0 < len(text) <= LONGEST_STOP,
                "stop",
                f"a text of {len(text)} characters",
                f"1 to {LONGEST_STOP} characters",
            )


def _require(valid: bool, name: str, got: object, expected: str) -> None:
    if not valid:
        raise RecipeError(f"{name} is {got}; expected {expected}")


def sampler(sampling: Sampling) -> Callable[[torch.Tensor], int]:
    """Return a function from logits [V] to a token id. Its random numbers come from the random seed only.

    It runs on the CPU, so that the numbers are the same on every device.
    """
    import torch
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    if sampling.temperature < COLDEST:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator().manual_seed(sampling.random_seed)
    warpers: list[Any] = []
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))

    def sample(logits: torch.Tensor) -> int:
        scores = (logits.cpu() / sampling.temperature)[None]
        for warper in warpers:
            scores = warper(None, scores)
        return int(torch.multinomial(scores[0].softmax(dim=-1), 1, generator=generator))

    return sample
