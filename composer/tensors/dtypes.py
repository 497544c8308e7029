"""Stored floats as numpy arrays to compute with, and back; torch would take longer to import than composing takes.

numpy has no bfloat16: its bits are the upper half of a float32's, so a stored one is kept as uint16.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

STORED: Mapping[str, type[np.generic]] = {
    "F16": np.float16,
    "BF16": np.uint16,
    "F32": np.float32,
    "F64": np.float64,
}
# What people and configuration files call them.
DTYPE_NAMES: Mapping[str, str] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float32, or as float64 where nothing less holds them; perhaps the same array."""
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return stored.astype(np.float32) if dtype == "F16" else stored


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 or float64 values as they are stored: rounded to the nearest, ties to even; beyond the range to ∞."""
    with np.errstate(over="ignore"):
        if dtype != "BF16":
            return values.astype(STORED[dtype], copy=False)
        bits = values.astype(np.float32, copy=False).view(np.uint32)
    # Just below half of the last bit that stays, and that bit itself: half carries over to even numbers only.
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)
