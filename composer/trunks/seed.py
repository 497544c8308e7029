"""The seed's trunk, unchanged: what anchored experts were trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from composer.trunks.base import NamedMerge


class Seed(NamedMerge):
    """Right when every expert is anchored; costs free experts what their trunks learned."""

    elementwise: ClassVar[bool] = True
    method: Literal["seed"] = "seed"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        return seed
