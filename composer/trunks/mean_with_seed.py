"""Unweighted mean of the experts and the seed: the paper's dense-merging baseline, applied to the trunk alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from composer.trunks.base import NamedMerge


class MeanWithSeed(NamedMerge):
    """Keeps the trunk closer to the seed, whose FFN is the shared expert."""

    elementwise: ClassVar[bool] = True
    method: Literal["mean_with_seed"] = "mean_with_seed"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        total, count = seed.copy(), 1
        for expert in experts:
            total += expert
            count += 1
        total /= count
        return total
