"""Near-duplicates: held-out documents of which a training document contains most.

A document is a set of shingles: hashes of all runs of 16 bytes, of which one in four is kept, chosen by its value.
Memory grows only with the held-out text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHINGLE_BYTES = 16
LEAST_SHARE = 0.7  # of a held-out document's shingles in one training document
_KEPT_ONE_IN = 4
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)


class Index:
    """Shingles of held-out documents; `found` are the places of those with a near-duplicate."""

    def __init__(self, texts: Sequence[str]) -> None:
        each = [shingles(text) for text in texts]
        hashes = np.concatenate([*each, np.empty(0, np.uint64)])
        owners = np.repeat(np.arange(len(each)), [len(own) for own in each])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        self._sizes = np.array([max(1, len(own)) for own in each])
        self.found: set[int] = set()

    def compare(self, text: str) -> None:
        """Find the held-out documents of which a training document contains most."""
        own = shingles(text)
        if not len(own) or not len(self._hashes):
            return
        start = np.searchsorted(self._hashes, own, "left")
        start = start[self._hashes[np.minimum(start, len(self._hashes) - 1)] == own[: len(start)]]
        if not len(start):
            return
        stop = np.searchsorted(self._hashes, self._hashes[start], "right")
        owners = np.concatenate([self._owners[a:b] for a, b in zip(start, stop, strict=True)])
        places, counts = np.unique(owners, return_counts=True)
        self.found.update(places[counts >= LEAST_SHARE * self._sizes[places]].tolist())


def shingles(text: str) -> np.ndarray:
    """Return the distinct kept hashes of a text's runs of bytes, sorted; case and spaces do not count."""
    codes = np.frombuffer("".join(text.lower().split()).encode(errors="replace"), np.uint8)
    if len(codes) < SHINGLE_BYTES:
        return np.empty(0, np.uint64)
    hashes = codes.astype(np.uint64) + np.uint64(1)
    for step, multiplier in zip((1, 2, 4, 8), _MULTIPLIERS, strict=True):  # runs of 2, 4, 8 and 16 bytes
        hashes = (hashes[:-step] * np.uint64(multiplier)) ^ (hashes[step:] + (hashes[step:] >> np.uint64(29)))
    mixed = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_MULTIPLIERS[0])
    return np.unique(mixed[(mixed >> np.uint64(40)) % np.uint64(_KEPT_ONE_IN) == 0])
