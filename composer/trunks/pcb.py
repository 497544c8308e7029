"""PCB-Merging: parameters compete, within an expert and between experts (arXiv 2410.02396, section 3).

With task vectors τ_i = φ_i − φ_seed of N experts, all products element by element, softmax over the elements:

    intra-balancing   a_i = softmax(N · norm(τ_i · τ_i))
    inter-balancing   b_i = Σ_j softmax(norm(τ_i · τ_j))
    drop              β_i = a_i · b_i where it is among the highest, else 0
    rescale           φ   = φ_seed + λ · Σ β_i τ_i / Σ β_i

norm maps a tensor's least element to 0 and its greatest to 1. The paper balances all parameters of a model together;
here each tensor is balanced separately. The authors' published code uses tanh for inter-balancing and clips outliers;
this file follows the equations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from composer.trunks.base import NamedMerge, smallest_kept

# Scores are products of two softmaxes over up to 10^9 elements: far below 1, far above the least float.
TINY = 1e-37


class Pcb(NamedMerge):
    """`density` is the share of each task vector that is kept, `scale` is λ."""

    elementwise: ClassVar[bool] = False
    method: Literal["pcb"] = "pcb"
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        vectors = [expert - seed for expert in experts]
        merged, weight = np.zeros_like(seed), np.zeros_like(seed)
        for vector in vectors:
            score = _balanced(vector * vector, len(vectors))
            inter = np.zeros_like(seed)
            for other in vectors:
                inter += _balanced(vector * other)
            score *= inter
            score *= score >= smallest_kept(score, self.density)
            merged += score * vector
            weight += score
        return seed + self.scale * merged / np.maximum(weight, TINY)


def _balanced(values: np.ndarray, sharpness: int = 1) -> np.ndarray:
    """softmax(sharpness · norm(values)) over all elements; equal values share equally."""
    low, high = values.min(), values.max()
    # A shift does not change softmax. Here the greatest value becomes 0, so that no power overflows.
    powers = np.exp(sharpness * ((values - high) / max(high - low, TINY)))
    return powers / powers.sum()
