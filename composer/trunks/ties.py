"""TIES: trim, elect a sign, merge the values of that sign (Resolving interference when merging, arXiv 2306.01708).

With task vectors τ_i = φ_i − φ_seed, of which only the largest by magnitude are kept:

    γ = sign(Σ τ_i)        φ = φ_seed + λ · mean of those τ_i whose sign is γ, element by element

The paper trims all parameters of a model together; here each tensor is trimmed separately.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from composer.trunks.base import NamedMerge, smallest_kept


class Ties(NamedMerge):
    """`density` is the share of each task vector that is kept, `scale` is λ."""

    elementwise: ClassVar[bool] = False
    method: Literal["ties"] = "ties"
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        total = np.zeros_like(seed)
        trimmed = []
        for expert in experts:
            trimmed.append(self._trim(expert - seed))
            total += trimmed[-1]
        elected = np.sign(total)
        merged, count = np.zeros_like(seed), np.zeros_like(seed)
        for vector in trimmed:
            agrees = vector * elected > 0
            merged += vector * agrees
            count += agrees
        return seed + self.scale * merged / np.maximum(count, 1)

    def _trim(self, vector: np.ndarray) -> np.ndarray:
        magnitude = np.abs(vector)
        return vector * (magnitude >= smallest_kept(magnitude, self.density))
