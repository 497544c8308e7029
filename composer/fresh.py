"""What a fresh router holds, by its kind: said once, for torch to draw with and for composing, which does without.

Shape suffixes: N routed experts, M domain-embedding width, H model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Normal(NamedTuple):
    """A parameter's first values: normally distributed around `mean`, or all `mean` where `std` is 0."""

    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


def fresh_nexus(hidden_size: int, domain_dim: int, num_experts: int) -> dict[str, Normal]:
    """W1 [2H, M] and W2 [H, H] of the Nexus router."""
    # Domain vectors have unit variance per coordinate, so W1 keeps it; a small W2 starts with soft routing.
    return {
        "w1": Normal((2 * hidden_size, domain_dim), std=1 / math.sqrt(domain_dim)),
        "w2": Normal((hidden_size, hidden_size), std=0.02),
    }


def fresh_linear(hidden_size: int, domain_dim: int, num_experts: int) -> dict[str, Normal]:
    """The rows [N, H] of the linear router."""
    return {"weight": Normal((num_experts, hidden_size), std=0.02)}


FRESH: Mapping[str, Callable[[int, int, int], dict[str, Normal]]] = {
    "nexus": fresh_nexus,
    "linear": fresh_linear,
}
