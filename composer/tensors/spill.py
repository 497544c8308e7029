"""Tensors of solvers: in memory while there is room, else in files that are mapped."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from composer import resources


class Spill:
    """Makes float32 tensors. One without room in memory (composer/resources.py) is in a file of `folder`.

    The file has no name, so it is gone with its tensor, also after a crash. Room is given back with the Spill.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def zeros(self, *shape: int) -> torch.Tensor:
        """Return a tensor of zeros."""
        nbytes = torch.Size(shape).numel() * torch.float32.itemsize
        if not nbytes or resources.keep(self, nbytes):
            return torch.zeros(shape)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a float32 copy of a tensor that will be kept."""
        return self.zeros(*tensor.shape).copy_(tensor)
