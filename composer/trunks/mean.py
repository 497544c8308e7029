"""Unweighted mean of the experts: φ = Σ φ_i / n (Nexus, arXiv 2408.15901, section 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from composer.trunks.base import NamedMerge


class Mean(NamedMerge):
    """The paper's trunk, which does not depend on the seed's."""

    elementwise: ClassVar[bool] = True
    method: Literal["mean"] = "mean"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        total, count = np.zeros_like(seed), 0
        for expert in experts:
            total += expert
            count += 1
        total /= count
        return total
