"""Token profiles: how often each token, and each pair of neighbours, occurs in a domain's text.

Shape suffix: V vocabulary, or buckets of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from composer.derived import derived
from composer.mix.lock import LockedSeed
from composer.mix.opening import open_tokenizer, seed_config
from composer.model.initial import PAIR_BUCKETS, PAIR_FACTORS
from registry.domains import documents
from registry.domains.token_profile import TOKENIZER_FILE
from registry.home import Registry
from registry.records import Digest

COUNTED_CHARS = 1_500_000
# Counts are scaled to a text of so many tokens before they are smoothed. Otherwise a token that no domain contains
# would be evidence for the domain with the least text.
TOKENS = 120_000
SMOOTHING = 0.5  # added to every count

Encode = Callable[[str], Sequence[int]]
"""Function that returns a text's token ids."""


class Profile(NamedTuple):
    """Log-frequencies of tokens [V] and of hashed pairs [PAIR_BUCKETS], in float16."""

    unigrams: np.ndarray
    bigrams: np.ndarray


class Profiles:
    """Profiles by a seed's tokenizer. It is loaded once, when the first text must be counted."""

    def __init__(self, registry: Registry, seed: LockedSeed) -> None:
        self.registry, self.seed = registry, seed

    def stored(self, sample: Digest) -> Profile:
        """The profile of a stored sample of text. It is counted once in a registry."""
        key = [sample, self.seed.files[TOKENIZER_FILE], f"{COUNTED_CHARS} {TOKENS} {SMOOTHING}"]

        def count() -> dict[str, np.ndarray]:
            return self.count(documents.load_documents(self.registry.blobs, sample))._asdict()

        return Profile(**derived(self.registry, "profiles", key, count))

    def count(self, texts: Iterable[str]) -> Profile:
        """The profile of documents."""
        return profile(self._encode, texts, seed_config(self.registry.blobs, self.seed)["vocab_size"])

    def _encode(self, text: str) -> Sequence[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        return open_tokenizer(self.registry.blobs, self.seed.files)


def profile(encode: Encode, texts: Iterable[str], vocabulary: int) -> Profile:
    """The profile of the documents' first COUNTED_CHARS characters."""
    tokens_V = np.zeros(vocabulary)
    pairs_V = np.zeros(PAIR_BUCKETS)
    left = COUNTED_CHARS
    for text in texts:
        if left <= 0:
            break
        ids = np.array(encode(text[:left]), dtype=np.int64)
        left -= len(text)
        tokens_V += np.bincount(ids, minlength=vocabulary)
        pairs_V += np.bincount(bucket(ids[:-1], ids[1:]), minlength=PAIR_BUCKETS)
    return Profile(_log_frequencies(tokens_V), _log_frequencies(pairs_V))


def bucket(previous: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The row of each pair of token ids, as in composer/model/routed.py."""
    return (previous * PAIR_FACTORS[0] + ids * PAIR_FACTORS[1]) % PAIR_BUCKETS


def _log_frequencies(counts_V: np.ndarray) -> np.ndarray:
    smoothed_V = counts_V * (TOKENS / max(counts_V.sum(), 1)) + SMOOTHING
    return np.log(smoothed_V / smoothed_V.sum()).astype(np.float32).astype(np.float16)
