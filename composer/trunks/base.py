"""Protocol of a trunk merge, and base class of the merges that a recipe can name.

They compute with numpy: the import of torch would take longer than the merge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict


class TrunkMerge(Protocol):
    """Merge of one tensor of the trunk at a time, so that memory does not grow with the model.

    An `elementwise` merge computes each element independently. Its input is flat pieces of a tensor, and an iterator
    with one expert's piece in memory at a time. The input of other merges is whole tensors; they have at most that
    tensor of every expert in memory.
    """

    elementwise: ClassVar[bool]

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        """Merge float32 arrays of one shape to one of the same shape. `experts` can be iterated only once."""
        ...


class NamedMerge(BaseModel):
    """A merge in a recipe. Its fields are `method`, which is its name, and its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: str
    elementwise: ClassVar[bool]
    fitted: ClassVar[bool] = False  # whether the warm start replaces the merge by closed forms
    routed: ClassVar[bool] = False  # whether nothing is merged: each token passes through one whole expert

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        """See TrunkMerge."""
        raise NotImplementedError


def smallest_kept(values: np.ndarray, density: float) -> float:
    """Return the least value among the highest `density` share of the elements, which has at least one element."""
    dropped = values.size - max(1, round(density * values.size))
    return float(np.partition(values, dropped, axis=None)[dropped])
