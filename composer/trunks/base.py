"""The protocol of a trunk merge, and the form of those that a recipe can name.

The methods are written with the tensors' own operations only: a recipe is read and checked without torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch


class TrunkMerge(Protocol):
    """Merges one tensor of the trunk at a time, so memory does not grow with the model.

    `elementwise` merges see no more than one element at once: they are fed flat pieces of a tensor, and an
    iterator that holds one expert's piece at a time. The others are fed whole tensors, and hold at most that
    tensor of every expert.
    """

    elementwise: ClassVar[bool]

    def __call__(self, seed: torch.Tensor, experts: Iterable[torch.Tensor]) -> torch.Tensor:
        """float32 tensors of one shape in, one of the same shape out. `experts` may be walked only once."""
        ...


class NamedMerge(BaseModel):
    """A merge as a recipe writes it: its fields are `method`, which is its name, and its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    elementwise: ClassVar[bool]

    def __call__(self, seed: torch.Tensor, experts: Iterable[torch.Tensor]) -> torch.Tensor:
        """As TrunkMerge has it."""
        raise NotImplementedError


def smallest_kept(values: torch.Tensor, density: float) -> float:
    """The value that the highest `density` share of the elements reach; at least one element reaches it."""
    dropped = values.numel() - max(1, round(density * values.numel()))
    # Twice as fast as torch's kthvalue, which sorts indices along.
    return float(np.partition(values.numpy(), dropped, axis=None)[dropped])
