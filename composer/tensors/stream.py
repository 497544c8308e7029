"""Streaming of blobs as numpy arrays, and the trunk merge, which needs constant memory for elementwise merges.

Shape suffix: P elements of a flat piece of a tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from composer.progress import Progress, silent
from composer.trunks.base import TrunkMerge
from registry.blobs import BlobStore
from registry.checkpoints.canonical import canonical_header
from registry.checkpoints.dtypes import STORED, decode, encode
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.errors import UnsafeFileError
from registry.records import Digest

# Elements per piece: small enough that all pieces of a merge fit in a core's cache, for any model size.
PIECE = 2**17
ARRAY_DTYPES = {np.dtype("<f2"): "F16", np.dtype("<f4"): "F32"}


def stored_tensors(blobs: BlobStore, digest: Digest) -> Mapping[str, TensorInfo]:
    """Return the location of each tensor of a blob. `verifying` hashes the blob's bytes later, during reading."""
    try:
        return read_header(blobs.path(digest, verify=False))
    except UnsafeFileError:
        blobs.path(digest)  # stored headers were valid, so the blob is damaged: this raises IntegrityError
        raise


@contextmanager
def verifying(blobs: BlobStore, digests: Sequence[Digest]) -> Iterator[None]:
    """Hash blobs in a parallel thread while the `with` block runs, and wait for the result at its end.

    Raises IntegrityError if a blob is damaged.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    results = [pool.submit(blobs.path, digest) for digest in digests]
    try:
        yield
    except Exception:
        # A damaged blob is moved away, and then its reader fails: raise the cause instead of this failure.
        damage = next(
            (result.exception() for result in results if result.done() and result.exception()), None
        )
        if damage is not None:
            raise damage from None
        raise
    else:
        for result in results:
            result.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def read_stored(info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Read the stored elements [start, stop) of a tensor. Plain reads avoid mapping a whole file into memory."""
    values = np.empty(stop - start, dtype=STORED[info.dtype])
    left, offset = values.view(np.uint8).data, info.start + start * values.itemsize
    # os.preadv is a fifth faster than numpy.fromfile, which opens a Python file.
    descriptor = os.open(info.path, os.O_RDONLY)
    try:
        while left:  # one call reads at most 2 GB
            count = os.preadv(descriptor, [left], offset)
            if count == 0:
                raise UnsafeFileError(f"{info.path}: the file ends before the data of {info.name}")
            left, offset = left[count:], offset + count
    finally:
        os.close(descriptor)
    return values


def read(info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Read the elements [start, stop) of a tensor as float32; a whole tensor keeps its shape."""
    piece_P = decode(read_stored(info, start, stop), info.dtype).astype(np.float32, copy=False)
    return piece_P.reshape(info.shape) if stop - start == info.parameters else piece_P


def merge_trunks(
    blobs: BlobStore,
    merge: TrunkMerge,
    seed: Digest,
    experts: list[Digest],
    progress: Progress = silent,
) -> Digest:
    """Merge trunks tensor by tensor, in float32, into a blob with the seed's dtypes.

    One file is open at a time. An elementwise merge keeps a few pieces in memory, for any number of experts; other
    merges keep one whole tensor of every expert. If all experts have the seed's trunk, the result is that trunk and
    nothing is written.
    """
    if set(experts) == {seed}:
        return seed
    trunks = [seed, *experts]
    headers = [stored_tensors(blobs, digest) for digest in trunks]
    specs = [(info.name, info.dtype, info.shape) for info in headers[0].values()]
    total = sum(info.nbytes for info in headers[0].values())
    done = 0
    # Hashing takes about as long as merging. It ends before the writer commits, so no damaged blob is merged.
    with blobs.writer(total) as writer, verifying(blobs, list(dict.fromkeys(trunks))):
        writer.write(canonical_header(specs))
        for name, dtype, _ in sorted(specs):
            infos = [header[name] for header in headers]
            for start, stop in _pieces(infos[0], merge.elementwise):
                merged = merge(read(infos[0], start, stop), (read(info, start, stop) for info in infos[1:]))
                writer.write(encode(merged, dtype).data)
            done += infos[0].nbytes
            progress("merging trunks", done, total)
    return writer.digest


def put_float32(
    blobs: BlobStore, shapes: Mapping[str, tuple[int, ...]], values: Callable[[str], np.ndarray]
) -> Digest:
    """Store float32 tensors as one canonical blob. `values` returns a tensor by name; one is in memory at a time."""
    with blobs.writer() as writer:
        writer.write(canonical_header((name, "F32", shape) for name, shape in shapes.items()))
        for name in sorted(shapes):
            writer.write(np.ascontiguousarray(values(name), dtype="<f4").data)
    return writer.digest


def put_arrays(blobs: BlobStore, arrays: Mapping[str, np.ndarray]) -> Digest:
    """Store float16 and float32 arrays as one canonical blob."""
    with blobs.writer() as writer:
        specs = ((name, ARRAY_DTYPES[array.dtype], array.shape) for name, array in arrays.items())
        writer.write(canonical_header(specs))
        for name in sorted(arrays):
            writer.write(np.ascontiguousarray(arrays[name]).data)
    return writer.digest


def read_arrays(blobs: BlobStore, digest: Digest) -> dict[str, np.ndarray]:
    """Read the float16 and float32 tensors of a blob. Raises NotFoundError, IntegrityError."""
    blobs.path(digest)  # verified
    return {
        name: read_stored(info, 0, info.parameters).reshape(info.shape)
        for name, info in stored_tensors(blobs, digest).items()
    }


def _pieces(info: TensorInfo, elementwise: bool) -> Iterator[tuple[int, int]]:
    step = PIECE if elementwise else max(info.parameters, 1)
    for start in range(0, info.parameters, step):
        yield start, min(start + step, info.parameters)
