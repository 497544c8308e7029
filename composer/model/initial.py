"""What a fresh router holds, by its kind: said once, for torch to draw with and for composing, which does without.

Shape suffixes: N routed experts, M domain-embedding width, H model width, R state width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

PAIR_BUCKETS = 65_536  # rows of a context router's table of hashed token pairs
STATE_WIDTH = 64  # R, what the recurrent router carries from block to block


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


def fresh_random(hidden_size: int, domain_dim: int, num_experts: int) -> dict[str, Normal]:
    """The rows [N, H] of the random router."""
    # MLP inputs have about unit variance in each coordinate, and so have these logits.
    return {"weight": Normal((num_experts, hidden_size), std=1 / math.sqrt(hidden_size))}


def fresh_recurrent(hidden_size: int, domain_dim: int, num_experts: int) -> dict[str, Normal]:
    """Those of the Nexus router, U [R, H], the GRU's, and V [R, M], which begins without a say."""
    spread = 1 / math.sqrt(3 * STATE_WIDTH)  # the variance of PyTorch's own, which are uniform
    return fresh_nexus(hidden_size, domain_dim, num_experts) | {
        "down": Normal((STATE_WIDTH, hidden_size), std=1 / math.sqrt(hidden_size)),
        "gru.weight_ih": Normal((3 * STATE_WIDTH, STATE_WIDTH), std=spread),
        "gru.weight_hh": Normal((3 * STATE_WIDTH, STATE_WIDTH), std=spread),
        "gru.bias_ih": Normal((3 * STATE_WIDTH,), std=spread),
        "gru.bias_hh": Normal((3 * STATE_WIDTH,), std=spread),
        "readout": Normal((STATE_WIDTH, domain_dim), std=0.0),
    }


def fresh_null(hidden_size: int, null_experts: int) -> dict[str, Normal]:
    """What null experts have learned beside the average expert's row, with any router: nothing yet."""
    return {"null": Normal((null_experts, hidden_size), std=0.0)}
