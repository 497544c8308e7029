"""Tensors of an export that are made piece by piece: stored ones, and sums of blocks, scaled copies and zeros.

An export never holds a whole tensor: each class gives any range of rows (its first axis) when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from composer.weights import PIECE, TORCH_DTYPES
from registry.tensors import TensorInfo


class Rows(Protocol):
    """A tensor of one or two axes that is read by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [start, stop) as `dtype`."""
        ...


class Stored:
    """A tensor of a blob, times a factor. Reading by plain calls keeps a file of any size out of our memory."""

    def __init__(self, info: TensorInfo, factor: float = 1) -> None:
        self.info, self.shape, self.factor = info, info.shape, factor

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        stored = TORCH_DTYPES[self.info.dtype]
        row_bytes = self.info.nbytes // max(self.shape[0], 1)
        data = np.fromfile(
            self.info.path,
            dtype=np.uint8,
            count=(stop - start) * row_bytes,
            offset=self.info.start + start * row_bytes,
        )
        piece = torch.from_numpy(data).view(stored).view(stop - start, *self.shape[1:])
        return (piece if self.factor == 1 else piece * self.factor).to(dtype)


class Given:
    """A small tensor that is in memory already."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        return self.tensor[start:stop].to(dtype)


class Zeros:
    """A tensor of zeros."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(stop - start, *self.shape[1:], dtype=dtype)


class Below:
    """Matrices of equal width, one below the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        pieces, offset = [], 0
        for part in self.parts:
            first, last = max(start - offset, 0), min(stop - offset, part.shape[0])
            if first < last:
                pieces.append(part.rows(first, last, dtype))
            offset += part.shape[0]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


class Beside:
    """Matrices of equal height, one beside the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.cat([part.rows(start, stop, dtype) for part in self.parts], dim=1)


def pieces(tensor: Rows, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """The tensor from its first row to its last, in pieces of some MB however large it is."""
    height, *rest = tensor.shape
    step = max(1, PIECE // max(int(np.prod(rest)), 1))
    for start in range(0, height, step):
        yield tensor.rows(start, min(start + step, height), dtype)
