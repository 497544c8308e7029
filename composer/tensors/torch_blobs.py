"""Torch tensors in blobs: memory-mapped reading and canonical writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from registry.blobs import BlobStore
from registry.checkpoints.canonical import canonical_header
from registry.records import Digest

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def map_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Map all tensors of a safetensors file into memory; a page is read when it is first accessed."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def put_tensors(blobs: BlobStore, tensors: Mapping[str, torch.Tensor]) -> Digest:
    """Store tensors as one canonical blob."""
    specs = [(name, DTYPE_NAMES[t.dtype], tuple(t.shape)) for name, t in tensors.items()]
    with blobs.writer() as writer:
        writer.write(canonical_header(specs))
        for _, tensor in sorted(tensors.items()):
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            writer.write(data.numpy().data)
    return writer.digest
