"""The protocol of a trunk merge, and the form of those that a recipe can name.

They compute with numpy: a trunk is merged without importing torch, which takes longer than the merge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict


class TrunkMerge(Protocol):
    """Merges one tensor of the trunk at a time, so memory does not grow with the model.

    `elementwise` merges see no more than one element at once: they are fed flat pieces of a tensor, and an
    iterator that holds one expert's piece at a time. The others are fed whole tensors, and hold at most that
    tensor of every expert.
    """

    elementwise: ClassVar[bool]

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        """float32 arrays of one shape in, one of the same shape out. `experts` may be walked only once."""
        ...


class NamedMerge(BaseModel):
    """A merge as a recipe writes it: its fields are `method`, which is its name, and its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: str
    elementwise: ClassVar[bool]
    fitted: ClassVar[bool] = False  # whether the warm start puts closed forms in place of the merge
    routed: ClassVar[bool] = False  # whether nothing is merged: each token passes through one whole expert

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        """As TrunkMerge has it."""
        raise NotImplementedError


def smallest_kept(values: np.ndarray, density: float) -> float:
    """The value that the highest `density` share of the elements reach; at least one element reaches it."""
    dropped = values.size - max(1, round(density * values.size))
    return float(np.partition(values, dropped, axis=None)[dropped])
