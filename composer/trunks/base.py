"""The protocol of a trunk merge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import torch


class TrunkMerge(Protocol):
    """Merges one tensor of the trunk at a time, so memory does not grow with the model.

    `elementwise` merges see no more than one element at once: they are fed flat pieces of a tensor, and an
    iterator that holds one expert's piece at a time. The others are fed whole tensors.
    """

    elementwise: ClassVar[bool]

    def __call__(self, seed: torch.Tensor, experts: Iterable[torch.Tensor]) -> torch.Tensor:
        """float32 tensors of one shape in, one of the same shape out. `experts` may be walked only once."""
        ...
