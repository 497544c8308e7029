"""Token profiles: how often each token, and each pair of neighbours, occurs in a domain's text.

Shape suffix: V vocabulary, or buckets of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from composer.model.initial import PAIR_BUCKETS
from composer.model.routed import bucket
from composer.training.data import token_ids

COUNTED_CHARS = 1_500_000
# Counts are scaled to a text of so many tokens before they are smoothed. Otherwise a token that no domain contains
# would be evidence for the domain with the least text.
TOKENS = 120_000
SMOOTHING = 0.5  # added to every count


class Profile(NamedTuple):
    """Log-frequencies of tokens [V] and of hashed pairs [PAIR_BUCKETS]."""

    unigrams: torch.Tensor
    bigrams: torch.Tensor


def profile(tokenizer: Any, documents: Sequence[str], vocabulary: int) -> Profile:
    """The profile of the documents' first COUNTED_CHARS characters."""
    tokens_V = torch.zeros(vocabulary, dtype=torch.float64)
    pairs_V = torch.zeros(PAIR_BUCKETS, dtype=torch.float64)
    for ids in token_ids(tokenizer, documents, COUNTED_CHARS):
        tokens_V += torch.bincount(ids, minlength=vocabulary)
        pairs_V += torch.bincount(bucket(ids[:-1], ids[1:]), minlength=PAIR_BUCKETS)
    return Profile(_log_frequencies(tokens_V), _log_frequencies(pairs_V))


def _log_frequencies(counts_V: torch.Tensor) -> torch.Tensor:
    smoothed_V = counts_V * (TOKENS / counts_V.sum().clamp(min=1)) + SMOOTHING
    return (smoothed_V / smoothed_V.sum()).log().float()
