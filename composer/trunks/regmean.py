"""RegMean (arXiv 2212.09849): linear layers that come nearest to every expert's outputs on its own text.

Without text, as here, it is the mean of the experts and the seed. Where the warm start has text, it puts its
closed forms in place of that mean (warmstart/trunk.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from composer.trunks.base import NamedMerge
from composer.trunks.mean_with_seed import MeanWithSeed


class RegMean(NamedMerge):
    """The mean for a start; a warm start then fits it to the experts' text."""

    elementwise: ClassVar[bool] = True
    fitted: ClassVar[bool] = True
    method: Literal["regmean"] = "regmean"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        return MeanWithSeed()(seed, experts)
