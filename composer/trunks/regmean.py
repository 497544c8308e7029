"""RegMean (arXiv 2212.09849): linear layers whose outputs are closest to those of every expert on its own text.

Here, without text, the merge is the mean of the experts and the seed. A warm start with text replaces that mean by
closed forms (composer/training/warm_start/trunk.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from composer.trunks.base import NamedMerge
from composer.trunks.mean_with_seed import MeanWithSeed


class RegMean(NamedMerge):
    """The mean of the experts and the seed, which a warm start then fits to the experts' text."""

    elementwise: ClassVar[bool] = True
    fitted: ClassVar[bool] = True
    method: Literal["regmean"] = "regmean"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        return MeanWithSeed()(seed, experts)
