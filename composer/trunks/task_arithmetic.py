"""Task arithmetic: φ = φ_seed + λ Σ (φ_i − φ_seed) (Editing models with task arithmetic, arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from composer.trunks.base import NamedMerge

if TYPE_CHECKING:
    import torch


class TaskArithmetic(NamedMerge):
    """Adds what every expert learned. `scale` is λ: 1/n gives the mean of the experts, 0 the seed."""

    elementwise: ClassVar[bool] = True
    method: Literal["task_arithmetic"] = "task_arithmetic"
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.4

    def __call__(self, seed: torch.Tensor, experts: Iterable[torch.Tensor]) -> torch.Tensor:
        merged = seed.clone()
        for expert in experts:
            merged.add_(expert - seed, alpha=self.scale)
        return merged
