"""Canonical safetensors files: sorted names, no metadata, packed data. Equal tensors give equal digests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from registry.checkpoints.safe_files import open_regular, printable
from registry.checkpoints.tensors import DTYPE_BYTES, TensorInfo
from registry.errors import UnsafeFileError

Progress = Callable[[str, int, int], None]

# Large enough to hide the cost of a call, small enough that a chunk is still in the cache when it is hashed.
CHUNK_BYTES = 2**20

# The unsigned view of a float format and its exponent bits: all of them set means NaN or infinity.
_EXPONENT: Mapping[str, tuple[type[np.unsignedinteger], int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}


class Writer(Protocol):
    """Any sink that accepts bytes in order, such as a blob writer."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Append the bytes."""


def canonical_header(specs: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Return the header of a canonical file for (name, dtype, shape) specs: 8-byte length and padded JSON.

    The data follows in the order of the sorted names, without gaps.
    """
    entries: dict[str, dict[str, object]] = {}
    position = 0
    for name, dtype, shape in sorted(specs):
        end = position + math.prod(shape) * DTYPE_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def canonical_size(infos: Mapping[str, TensorInfo]) -> int:
    """Return the size in bytes of the canonical file with these tensors."""
    header = canonical_header((name, info.dtype, info.shape) for name, info in infos.items())
    return len(header) + sum(info.nbytes for info in infos.values())


def write_canonical(
    writer: Writer,
    infos: Mapping[str, TensorInfo],
    *,
    check_finite: bool = True,
    stage: str = "copying",
    progress: Progress | None = None,
) -> None:
    """Stream tensors into a canonical file: each byte is read once, checked and passed to the writer.

    `infos` maps canonical names to the tensors' locations; `progress` gets (stage, bytes done, total bytes).

    Raises UnsafeFileError for NaN, infinity, or a file that became shorter during the read.
    """
    writer.write(canonical_header((name, info.dtype, info.shape) for name, info in infos.items()))
    total = sum(info.nbytes for info in infos.values())
    done = 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    files: dict[Path, BinaryIO] = {}
    with ExitStack() as stack:
        for name, info in sorted(infos.items()):
            if info.path not in files:
                files[info.path] = stack.enter_context(open_regular(info.path))
            file = files[info.path]
            file.seek(info.start)
            left = info.nbytes
            while left:
                chunk = buffer[: min(left, CHUNK_BYTES)]
                if file.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
                    raise UnsafeFileError(f"{info.path}: the file ended inside tensor {printable(name)}")
                if check_finite and not is_finite(chunk, info.dtype):
                    raise UnsafeFileError(f"{info.path}: tensor {printable(name)} contains NaN or infinity")
                writer.write(chunk)
                left -= len(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(stage, done, total)


def is_finite(data: memoryview | bytes, dtype: str) -> bool:
    """Return whether no float is NaN or infinite, from the exponent bits; True for dtypes not in `_EXPONENT`."""
    if dtype not in _EXPONENT:
        return True
    unsigned, mask = _EXPONENT[dtype]
    bits = np.frombuffer(data, dtype=unsigned)
    return bits.size == 0 or int((bits & unsigned(mask)).max()) != mask
