"""Unweighted mean of the experts: φ = Σ φ_i / n (Nexus, arXiv 2408.15901, section 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from composer.trunks.base import NamedMerge

if TYPE_CHECKING:
    import torch


class Mean(NamedMerge):
    """The paper's trunk. The seed has no part in it."""

    elementwise: ClassVar[bool] = True
    method: Literal["mean"] = "mean"

    def __call__(self, seed: torch.Tensor, experts: Iterable[torch.Tensor]) -> torch.Tensor:
        total, count = seed.new_zeros(seed.shape), 0
        for expert in experts:
            total += expert
            count += 1
        return total / count
