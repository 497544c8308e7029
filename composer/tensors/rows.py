"""Tensors of an export, computed piece by piece: stored tensors, scaled copies, zeros, and joined matrices.

An export never has a whole tensor in memory: each class computes any range of rows (first axis) on request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from composer.tensors.stream import PIECE, read_stored
from registry.checkpoints.dtypes import STORED, decode, encode
from registry.checkpoints.tensors import TensorInfo


class Rows(Protocol):
    """A tensor that is read by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        """Return rows [start, stop) in the stored form of `dtype` (see registry.checkpoints.dtypes)."""
        ...


class Stored:
    """A tensor of a blob, multiplied by a factor."""

    def __init__(self, info: TensorInfo, factor: float = 1) -> None:
        self.info, self.shape, self.factor = info, info.shape, factor

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        width = math.prod(self.shape[1:])
        piece = read_stored(self.info, start * width, stop * width).reshape(stop - start, *self.shape[1:])
        if self.factor == 1 and dtype == self.info.dtype:
            return piece
        values = decode(piece, self.info.dtype)
        return encode(values if self.factor == 1 else values * np.float32(self.factor), dtype)


class Between:
    """A point on the line through two stored tensors: `start` + `share` · (`end` − `start`)."""

    def __init__(self, start: TensorInfo, end: TensorInfo, share: float) -> None:
        self.start, self.end, self.share, self.shape = Stored(start), Stored(end), share, start.shape

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        first, second = (part.rows(start, stop, "F32") for part in (self.start, self.end))
        return encode(first + np.float32(self.share) * (second - first), dtype)


class Sum:
    """A stored matrix plus its low-rank difference B A (registry/checkpoints/low_rank.py)."""

    def __init__(self, info: TensorInfo, a: TensorInfo, b: TensorInfo) -> None:
        self.of, self.a, self.b, self.shape = Stored(info), Stored(a), Stored(b), info.shape

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        b, a = self.b.rows(start, stop, "F32"), self.a.rows(0, self.a.shape[0], "F32")
        return encode(self.of.rows(start, stop, "F32") + b @ a, dtype)


class Scaled:
    """Another tensor, multiplied by a factor."""

    def __init__(self, of: Rows, factor: float) -> None:
        self.of, self.factor, self.shape = of, factor, of.shape

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        return encode(self.of.rows(start, stop, "F32") * np.float32(self.factor), dtype)


def scaled(of: Rows, factor: float) -> Rows:
    """Return a tensor multiplied by a factor: itself for 1."""
    return of if factor == 1 else Scaled(of, factor)


class Shifted:
    """Another tensor plus a constant."""

    def __init__(self, of: Rows, constant: float) -> None:
        self.of, self.constant, self.shape = of, constant, of.shape

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        return encode(self.of.rows(start, stop, "F32") + np.float32(self.constant), dtype)


class Part:
    """Rows `first` to `last` (excluded) of another tensor."""

    def __init__(self, of: Rows, first: int, last: int) -> None:
        self.of, self.first, self.shape = of, first, (last - first, *of.shape[1:])

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        return self.of.rows(self.first + start, self.first + stop, dtype)


class Given:
    """A small float32 tensor in memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape = values, values.shape

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        return encode(self.values[start:stop], dtype)


class Repeated:
    """A matrix of equal rows."""

    def __init__(self, row: np.ndarray, height: int) -> None:
        self.row, self.shape = row, (height, len(row))

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        return encode(np.repeat(self.row[None], stop - start, axis=0), dtype)


class Zeros:
    """A tensor of zeros."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        return np.zeros((stop - start, *self.shape[1:]), dtype=STORED[dtype])


class Below:
    """Matrices of equal width, joined vertically."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        pieces, offset = [], 0
        for part in self.parts:
            first, last = max(start - offset, 0), min(stop - offset, part.shape[0])
            if first < last:
                pieces.append(part.rows(first, last, dtype))
            offset += part.shape[0]
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


class Beside:
    """Matrices of equal height, joined horizontally."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        return np.concatenate([part.rows(start, stop, dtype) for part in self.parts], axis=1)


def pieces(tensor: Rows, dtype: str) -> Iterator[np.ndarray]:
    """Yield the tensor from its first row to its last, in pieces of at most PIECE numbers or one row."""
    height, *rest = tensor.shape
    step = max(1, PIECE // max(math.prod(rest), 1))
    for start in range(0, height, step):
        yield tensor.rows(start, min(start + step, height), dtype)
