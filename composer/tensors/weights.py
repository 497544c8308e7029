"""Weights of a model: a stored tensor, or one that is computed from stored tensors by rows, on request.

Stored tensors are mapped from their blobs, so a weight takes memory only for the rows that are being computed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import EllipsisType

import numpy as np
import torch
from torch.nn import functional as F

from composer.tensors.torch_blobs import DTYPE_NAMES, TORCH_DTYPES
from registry.blobs import BlobStore
from registry.checkpoints.canonical import canonical_header
from registry.checkpoints.dtypes import STORED
from registry.checkpoints.tensors import TensorInfo
from registry.records import Digest

Rows = slice | torch.Tensor | EllipsisType
"""Rows of a weight: a range, a tensor of indices, or all of them."""

PIECE = 2**24  # elements that are computed at once
# Up to this number of inputs, two products are faster than computing the weight between two.
FEW_INPUTS = 32


class Weight(ABC):
    """A tensor whose rows (first axis) are computed on request."""

    shape: torch.Size
    dtype: torch.dtype

    @abstractmethod
    def rows(self, rows: Rows, dtype: torch.dtype) -> torch.Tensor:
        """Return some rows in a dtype."""

    def stored(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return the tensor itself if it needs no computing for this dtype."""
        return None

    def value(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the whole tensor. Only the result and one piece are in memory."""
        ready = self.stored(dtype)
        if ready is not None:
            return ready
        if self.shape.numel() <= PIECE:
            return self.rows(..., dtype)
        result = torch.empty(self.shape, dtype=dtype)
        for piece in self.pieces():
            result[piece] = self.rows(piece, dtype)
        return result

    def pieces(self) -> Iterator[Rows]:
        """Yield the ranges of rows of at most PIECE elements, or of one row."""
        if not self.shape:
            yield ...
            return
        count = max(1, PIECE // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], count):
            yield slice(start, min(start + count, self.shape[0]))

    def product(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return x Wᵀ for some rows of the weight, in the dtype and on the device of x."""
        return F.linear(x, self.rows(rows, x.dtype).to(x.device))


class Stored(Weight):
    """A tensor as it is, converted to the dtype."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype

    def rows(self, rows: Rows, dtype: torch.dtype) -> torch.Tensor:
        return self.tensor[rows].to(dtype)

    def stored(self, dtype: torch.dtype) -> torch.Tensor | None:
        return self.tensor if self.dtype == dtype else None


class Scaled(Weight):
    """A tensor times a factor, in float32."""

    def __init__(self, tensor: torch.Tensor, factor: float) -> None:
        self.tensor, self.factor, self.shape, self.dtype = tensor, factor, tensor.shape, tensor.dtype

    def rows(self, rows: Rows, dtype: torch.dtype) -> torch.Tensor:
        return (self.tensor[rows].float() * self.factor).to(dtype)


class Blend(Weight):
    """start + share · (end − start), in float32."""

    def __init__(self, start: Weight, end: Weight, share: float) -> None:
        self.start, self.end, self.share = start, end, share
        self.shape, self.dtype = start.shape, start.dtype

    def rows(self, rows: Rows, dtype: torch.dtype) -> torch.Tensor:
        start, end = (part.rows(rows, torch.float32) for part in (self.start, self.end))
        return torch.lerp(start, end, self.share).to(dtype)

    def product(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        if x.shape[:-1].numel() > FEW_INPUTS:
            return super().product(x, rows)
        return torch.lerp(self.start.product(x, rows), self.end.product(x, rows), self.share)


class Mean(Weight):
    """The mean of several weights, in float32."""

    def __init__(self, parts: Sequence[Weight]) -> None:
        self.parts, self.shape, self.dtype = parts, parts[0].shape, parts[0].dtype

    def rows(self, rows: Rows, dtype: torch.dtype) -> torch.Tensor:
        total = self.parts[0].rows(rows, torch.float32).clone()
        for part in self.parts[1:]:
            total += part.rows(rows, torch.float32)
        return (total / len(self.parts)).to(dtype)


class Added(Weight):
    """A matrix plus its low-rank difference B A.

    It is `rounded` to the matrix's dtype as in PEFT's `merge_and_unload`, unless that was not done in training.
    """

    def __init__(
        self, weight: Weight, a: torch.Tensor, b: torch.Tensor, scale: float = 1.0, *, rounded: bool = True
    ) -> None:
        self.weight, self.a, self.b, self.scale, self.rounded = weight, a, b, scale, rounded
        self.shape, self.dtype = weight.shape, weight.dtype

    def rows(self, rows: Rows, dtype: torch.dtype) -> torch.Tensor:
        weight = self.weight.rows(rows, torch.float32)
        summed = torch.addmm(weight, self.b[rows].float(), self.a.float(), alpha=self.scale)
        return (summed.to(self.dtype) if self.rounded else summed).to(dtype)


def mapped(info: TensorInfo) -> torch.Tensor:
    """Map one tensor of a safetensors file into memory; it is never written to."""
    if not info.parameters:
        return torch.empty(info.shape, dtype=TORCH_DTYPES[info.dtype])
    # Copy on write, because torch accepts no read-only memory.
    values = np.memmap(
        info.path, dtype=STORED[info.dtype], mode="c", offset=info.start, shape=(info.parameters,)
    )
    return torch.from_numpy(values).view(TORCH_DTYPES[info.dtype]).view(info.shape)


def stored(tensors: Mapping[str, torch.Tensor]) -> dict[str, Weight]:
    """Return tensors as weights by name."""
    return {name: Stored(tensor) for name, tensor in tensors.items()}


def put_weights(blobs: BlobStore, weights: Mapping[str, Weight], dtype: torch.dtype | None = None) -> Digest:
    """Store weights as one canonical blob, in a dtype or each in its own. One piece is in memory at a time."""
    dtypes = {name: dtype or weight.dtype for name, weight in weights.items()}
    with blobs.writer() as writer:
        specs = ((name, DTYPE_NAMES[dtypes[name]], tuple(weight.shape)) for name, weight in weights.items())
        writer.write(canonical_header(specs))
        for name, weight in sorted(weights.items()):
            for piece in weight.pieces():
                data = weight.rows(piece, dtypes[name]).detach().cpu().contiguous().flatten()
                writer.write(data.view(torch.uint8).numpy().data)
    return writer.digest
