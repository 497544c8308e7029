"""Weighted mean of the experts: φ = Σ w_i φ_i / Σ w_i (Model soups, arXiv 2203.05482, with chosen weights)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from composer.trunks.base import NamedMerge


class Weighted(NamedMerge):
    """`weights` are in the order of the recipe's experts; equal weights give the mean."""

    elementwise: ClassVar[bool] = True
    method: Literal["weighted"] = "weighted"
    weights: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, weights: list[float]) -> list[float]:
        if sum(weights) <= 0:
            raise ValueError("all weights are zero; give at least one a positive value")
        return weights

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        total = np.zeros_like(seed)
        for weight, expert in zip(self.weights, experts, strict=True):
            total += weight * expert
        return total / sum(self.weights)
