"""The seed's trunk, unchanged: the trunk with which anchored experts were trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from composer.trunks.base import NamedMerge


class Seed(NamedMerge):
    """Exact if every expert is anchored. Free experts lose the training of their trunks."""

    elementwise: ClassVar[bool] = True
    method: Literal["seed"] = "seed"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        return seed
