"""The seed's trunk, unchanged: what anchored experts were trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from composer.trunks.base import NamedMerge

if TYPE_CHECKING:
    import torch


class Seed(NamedMerge):
    """Right when every expert is anchored; costs free experts what their trunks learned."""

    elementwise: ClassVar[bool] = True
    method: Literal["seed"] = "seed"

    def __call__(self, seed: torch.Tensor, experts: Iterable[torch.Tensor]) -> torch.Tensor:
        return seed
