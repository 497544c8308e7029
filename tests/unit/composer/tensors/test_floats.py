"""Stored floats as arrays and back: the same numbers as torch's, and ties to even."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer.tensors.torch_blobs import TORCH_DTYPES
from registry.checkpoints.dtypes import decode, encode


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor, as input of `decode`."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def floats(count: int) -> torch.Tensor:
    """Random float32 numbers of all magnitudes, with both zeros and other edge values."""
    bits = np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint32)
    values = bits.view(np.float32)
    edges = np.array([0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, 65504.0, 65520.0, 6e-8], np.float32)
    return torch.from_numpy(np.concatenate([values[np.isfinite(values)], edges]))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_stored_value_of_16_bits_is_decoded_exactly(dtype: str) -> None:
    stored = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(TORCH_DTYPES[dtype])
    stored = stored[torch.isfinite(stored)]
    decoded = decode(bits_of(stored), dtype)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, stored.float().numpy())
    np.testing.assert_array_equal(encode(decoded, dtype), bits_of(stored))


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_wider_values_stay_as_they_are(dtype: str) -> None:
    stored = floats(1000).to(TORCH_DTYPES[dtype]).numpy()
    assert decode(stored, dtype).dtype == stored.dtype
    np.testing.assert_array_equal(encode(decode(stored, dtype), dtype), stored)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_rounding_is_torchs(dtype: str) -> None:
    values = floats(200_000)
    encoded = encode(values.numpy(), dtype)
    np.testing.assert_array_equal(encoded, bits_of(values.to(TORCH_DTYPES[dtype])))
    assert encoded.nbytes == len(values) * TORCH_DTYPES[dtype].itemsize


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F808000, 0x3F80),  # halfway between an even and an odd number: down to the even one
        (0x3F818000, 0x3F82),  # halfway between an odd and an even one: up
        (0x3F808001, 0x3F81),  # just above halfway
        (0x3F807FFF, 0x3F80),  # just below
        (0xBF818000, 0xBF82),  # the same for a negative number: away from zero
        (0x3FFF8000, 0x4000),  # the carry runs into the exponent
        (0x7F7FFFFF, 0x7F80),  # the greatest float32 is infinite as bfloat16
        (0x7F800000, 0x7F80),
        (0x7FC00000, 0x7FC0),  # NaN stays NaN
    ],
)
def test_bfloat16_rounds_to_the_nearest_and_ties_to_even(bits: int, rounded: int) -> None:
    assert encode(np.array([bits], np.uint32).view(np.float32), "BF16").tolist() == [rounded]
