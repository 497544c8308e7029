"""Initial parameter distributions of each router, shared by torch (training) and numpy (composing).

Shape suffixes: N routed experts, M domain-embedding width, H model width, R state width.
`block` is the number of the decoder block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

PAIR_BUCKETS = 65_536  # rows of a context router's table of hashed token pairs
PAIR_FACTORS = (320_729_157, 2_654_435_761)  # multiplicative hashing of a pair (Knuth 6.4) by odd constants
# A context router's filter. Measured on a small lab and on SmolLM2: sure within a domain, and 30 tokens after a change
# it has followed.
SHARPNESS, SWITCHING = 0.2, 0.003
STATE_WIDTH = 64  # R, the width of the state that the recurrent router passes from block to block


class Normal(NamedTuple):
    """A parameter's initial values: normally distributed around `mean`, or all equal to `mean` if `std` is 0."""

    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


def fresh_nexus(hidden_size: int, domain_dim: int, num_experts: int, block: int = 0) -> dict[str, Normal]:
    """Weights of the Nexus router: W1 [2H, M] and W2 [H, H]."""
    # Domain vectors have unit variance per coordinate, and W1 preserves it. A small W2 makes the first routing soft.
    return {
        "w1": Normal((2 * hidden_size, domain_dim), std=1 / math.sqrt(domain_dim)),
        "w2": Normal((hidden_size, hidden_size), std=0.02),
    }


def feature_count(num_experts: int, block: int) -> int:
    """Number of features of a router with context: 1, and one mean per expert and block up to its own."""
    return 1 + num_experts * (block + 1)


def fresh_nexus_context(
    hidden_size: int, domain_dim: int, num_experts: int, block: int = 0
) -> dict[str, Normal]:
    """Weights of the Nexus router with context: those of the Nexus router, the directions and their readout.

    Both are zero at first, so the scores do not depend on the context yet.
    """
    features = feature_count(num_experts, block)
    return fresh_nexus(hidden_size, domain_dim, num_experts) | {
        "directions": Normal((num_experts, hidden_size), std=0.0),
        "readout": Normal((features, hidden_size), std=0.0),
    }


def fresh_linear(hidden_size: int, domain_dim: int, num_experts: int, block: int = 0) -> dict[str, Normal]:
    """Weights of the linear router: one row per expert [N, H]."""
    return {"weight": Normal((num_experts, hidden_size), std=0.02)}


def fresh_random(hidden_size: int, domain_dim: int, num_experts: int, block: int = 0) -> dict[str, Normal]:
    """Weights of the random router: one row per expert [N, H]."""
    # MLP inputs have about unit variance in each coordinate. With this std, the logits have it too.
    return {"weight": Normal((num_experts, hidden_size), std=1 / math.sqrt(hidden_size))}


def fresh_recurrent(hidden_size: int, domain_dim: int, num_experts: int, block: int = 0) -> dict[str, Normal]:
    """Weights of the recurrent router: those of the Nexus router, U [R, H], the GRU, and V [R, M].

    V is zero at first, so the recurrent state does not affect the logits yet.
    """
    spread = 1 / math.sqrt(3 * STATE_WIDTH)  # the same variance as PyTorch's uniform initialisation of a GRU
    return fresh_nexus(hidden_size, domain_dim, num_experts) | {
        "down": Normal((STATE_WIDTH, hidden_size), std=1 / math.sqrt(hidden_size)),
        "gru.weight_ih": Normal((3 * STATE_WIDTH, STATE_WIDTH), std=spread),
        "gru.weight_hh": Normal((3 * STATE_WIDTH, STATE_WIDTH), std=spread),
        "gru.bias_ih": Normal((3 * STATE_WIDTH,), std=spread),
        "gru.bias_hh": Normal((3 * STATE_WIDTH,), std=spread),
        "readout": Normal((STATE_WIDTH, domain_dim), std=0.0),
    }


def fresh_null(hidden_size: int, null_experts: int) -> dict[str, Normal]:
    """Learned offsets of the null experts' rows from the average expert's row, for any router: zero at first."""
    return {"null": Normal((null_experts, hidden_size), std=0.0)}
