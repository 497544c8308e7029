"""A routed trunk: nothing is merged, each token passes through its own expert's trunk (composer/model/routed.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from composer.trunks.base import NamedMerge


class Routed(NamedMerge):
    """Keeps every expert whole. The seed's trunk serves the tokens that are sent to the seed."""

    elementwise: ClassVar[bool] = True
    routed: ClassVar[bool] = True
    method: Literal["routed"] = "routed"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        return seed
