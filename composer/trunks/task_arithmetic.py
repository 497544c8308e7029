"""Task arithmetic: φ = φ_seed + λ Σ (φ_i − φ_seed) (Editing models with task arithmetic, arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from composer.trunks.base import NamedMerge


class TaskArithmetic(NamedMerge):
    """The seed plus the scaled sum of task vectors. `scale` is λ: 1/n gives the mean of n experts, 0 the seed."""

    elementwise: ClassVar[bool] = True
    method: Literal["task_arithmetic"] = "task_arithmetic"
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.4

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        merged = seed.copy()
        for expert in experts:
            merged += self.scale * (expert - seed)
        return merged
