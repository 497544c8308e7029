"""Conversion between stored floats and numpy arrays for computing.

Torch is not used, because importing it would take longer than composing. numpy has no bfloat16, so stored bfloat16
values are uint16 arrays. Their bits are the upper half of a float32.
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
# The names of dtypes in configuration files.
DTYPE_NAMES: Mapping[str, str] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Convert stored values to float32; float64 stays float64. The result may be the same array."""
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return stored.astype(np.float32) if dtype == "F16" else stored


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Convert float32 or float64 values to a stored dtype.

    Values are rounded to the nearest, ties to even; values outside the range become ±∞.
    """
    with np.errstate(over="ignore"):
        if dtype != "BF16":
            return values.astype(STORED[dtype], copy=False)
        bits = values.astype(np.float32, copy=False).view(np.uint32)
    # Add 0x7FFF (just below half of the last kept bit) plus that bit, so that a tie rounds to the even value.
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)
