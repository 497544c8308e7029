"""Tensors to and from blobs: memory-mapped reading, canonical writing, and the trunk merge that streams.

Shape suffix: P a flat piece of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from composer.progress import Progress, silent
from composer.trunks.base import TrunkMerge
from registry.blobs import BlobStore
from registry.canonical import canonical_header
from registry.errors import UnsafeFileError
from registry.records import Digest
from registry.tensors import TensorInfo, read_header

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}

# Elements of a piece: so few that all pieces of a merge stay in a core's cache, whatever the model's size.
PIECE = 2**17


def map_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, backed by the file: pages come in when they are touched."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def put_tensors(blobs: BlobStore, tensors: Mapping[str, torch.Tensor]) -> Digest:
    """Store tensors as one canonical blob."""
    specs = [(name, DTYPE_NAMES[t.dtype], tuple(t.shape)) for name, t in tensors.items()]
    with blobs.writer() as writer:
        writer.write(canonical_header(specs))
        for _, tensor in sorted(tensors.items()):
            writer.write(_bytes_of(tensor))
    return writer.digest


def stored_tensors(blobs: BlobStore, digest: Digest) -> Mapping[str, TensorInfo]:
    """Where a blob's tensors lie. Its bytes are not hashed here but by `verifying`, while they are read."""
    try:
        return read_header(blobs.path(digest, verify=False))
    except UnsafeFileError:
        blobs.path(digest)  # what was stored was sound, so this says that the blob is damaged
        raise


@contextmanager
def verifying(blobs: BlobStore, digests: Sequence[Digest]) -> Iterator[None]:
    """Hash blobs beside the block, on another core; its end waits. Raises IntegrityError for a damaged one."""
    pool = ThreadPoolExecutor(max_workers=1)
    results = [pool.submit(blobs.path, digest) for digest in digests]
    try:
        yield
    except Exception:
        # A damaged blob is moved away, which fails its reader: report the cause, not the effect.
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on this thread alone: pieces are too small to share, and threads that wait for each other on cores
    that are busy, with hashing for one, take many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def merge_trunks(
    blobs: BlobStore,
    merge: TrunkMerge,
    seed: Digest,
    experts: list[Digest],
    progress: Progress = silent,
) -> Digest:
    """Merge trunks tensor by tensor, in float32, into a blob of the seed's dtypes.

    One file is open at a time and at most a few pieces are in memory, however many experts there are.
    Trunks that are all the seed's own merge to it exactly: nothing is written then.
    """
    if set(experts) == {seed}:
        return seed
    trunks = [seed, *experts]
    headers = [stored_tensors(blobs, digest) for digest in trunks]
    specs = [(info.name, info.dtype, info.shape) for info in headers[0].values()]
    total = sum(info.nbytes for info in headers[0].values())
    done = 0
    # Hashing takes about as long as merging. It ends before the writer does, so that nothing damaged is merged.
    with blobs.writer(total) as writer, verifying(blobs, list(dict.fromkeys(trunks))), one_thread():
        writer.write(canonical_header(specs))
        for name, _, _ in sorted(specs):
            infos = [header[name] for header in headers]
            for start, stop in _pieces(infos[0], merge.elementwise):
                merged = merge(read(infos[0], start, stop), (read(info, start, stop) for info in infos[1:]))
                writer.write(_bytes_of(merged.to(TORCH_DTYPES[infos[0].dtype])))
            done += infos[0].nbytes
            progress("merging trunks", done, total)
    return writer.digest


def read(info: TensorInfo, start: int, stop: int) -> torch.Tensor:
    """Elements [start, stop) of a tensor as float32, read from its file; whole tensors keep their shape."""
    dtype = TORCH_DTYPES[info.dtype]
    data = np.fromfile(
        info.path,
        dtype=np.uint8,
        count=(stop - start) * dtype.itemsize,
        offset=info.start + start * dtype.itemsize,
    )
    piece_P = torch.from_numpy(data).view(dtype).to(torch.float32)
    return piece_P.view(info.shape) if stop - start == info.parameters else piece_P


def _pieces(info: TensorInfo, elementwise: bool) -> Iterator[tuple[int, int]]:
    step = PIECE if elementwise else max(info.parameters, 1)
    for start in range(0, info.parameters, step):
        yield start, min(start + step, info.parameters)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
