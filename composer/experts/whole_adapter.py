"""Adapters that are more than low-rank sums of projections, merged into whole weights as PEFT merges them.

    DoRA (arXiv 2402.09353)       W' = m · (W + s B A) / ‖W + s B A‖, row by row
    LoRA of an embedding          W' = W + s (B A)ᵀ
    modules_to_save               W' = the saved tensor
    trainable_token_indices       W' = W with some rows replaced

Only the changed tensors are written, one at a time; the others stay the seed's. Shape suffixes: R rank, I in, O out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from composer.tensors.stream import read
from registry.checkpoints.canonical import canonical_header
from registry.checkpoints.dtypes import encode
from registry.checkpoints.safe_files import printable
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.errors import UnsafeFileError


@dataclass(frozen=True)
class LowRank:
    """Low-rank update of one projection: scale · B A. Of an embedding, it is scale · (B A)ᵀ."""

    a: TensorInfo  # [r, in]
    b: TensorInfo  # [out, r]
    scale: float
    of_embedding: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight that it changes."""
        shape = (self.b.shape[0], self.a.shape[1])
        return (shape[1], shape[0]) if self.of_embedding else shape


@dataclass(frozen=True)
class Beyond:
    """Parts of an adapter beyond its low-rank sums, by the names of weights.

    `rows` are token ids and the rows that replace theirs.
    """

    magnitudes: Mapping[str, TensorInfo] = field(default_factory=dict)
    saved: Mapping[str, TensorInfo] = field(default_factory=dict)
    rows: Mapping[str, tuple[TensorInfo, tuple[int, ...]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.magnitudes or self.saved or self.rows)


def merge(
    path: Path, stored: Mapping[str, TensorInfo], updates: Mapping[str, LowRank], beyond: Beyond
) -> dict[str, TensorInfo]:
    """Write the changed weights to a new file in the seed's dtypes, and return all weights by name.

    Raises UnsafeFileError for NaN or infinity.
    """
    changed = sorted({*updates, *beyond.saved, *beyond.magnitudes, *beyond.rows})
    shapes = {
        name: beyond.saved[name].shape if name in beyond.saved else stored[name].shape for name in changed
    }
    with path.open("wb") as out:
        out.write(canonical_header((name, stored[name].dtype, shapes[name]) for name in changed))
        for name in changed:
            value = _merged(name, stored, updates, beyond)
            if not np.isfinite(value).all():
                raise UnsafeFileError(
                    f"the adapter's update of {printable(name)} contains NaN or infinity; train it with a lower "
                    "learning rate, or save it before it diverged"
                )
            out.write(np.ascontiguousarray(encode(value, stored[name].dtype)).data)
    return {**stored, **read_header(path)}


def _merged(
    name: str, stored: Mapping[str, TensorInfo], updates: Mapping[str, LowRank], beyond: Beyond
) -> np.ndarray:
    weight = _whole(beyond.saved.get(name, stored[name])).copy()
    if name in updates:
        update = updates[name]
        b_OR, a_RI = _whole(update.b), _whole(update.a)
        product = np.float32(update.scale) * (b_OR @ a_RI)
        weight += product.T if update.of_embedding else product
    if name in beyond.magnitudes:
        length_O = np.linalg.norm(weight, axis=1)
        weight *= (_whole(beyond.magnitudes[name]) / length_O)[:, None]
    if name in beyond.rows:
        values, places = beyond.rows[name]
        weight[list(places)] = _whole(values)
    return weight


def _whole(info: TensorInfo) -> np.ndarray:
    return read(info, 0, info.parameters)
