"""The seed's trunk, unchanged: what anchored experts were trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from composer.trunks.base import TrunkMerge


class Seed(TrunkMerge):
    """Right when every expert is anchored; costs free experts what their trunks learned."""

    elementwise: ClassVar[bool] = True

    def __call__(self, seed: torch.Tensor, experts: Iterable[torch.Tensor]) -> torch.Tensor:
        return seed
