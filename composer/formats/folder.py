"""Atomic writing of a model folder: a temporary folder next to it, streamed shards, fsync, rename."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from composer.errors import ExportError
from composer.formats.rows import Rows, pieces
from composer.progress import Progress, silent
from registry.checkpoints.canonical import canonical_header
from registry.checkpoints.tensors import DTYPE_BYTES
from registry.errors import ConflictError, StorageError
from registry.home import Registry
from registry.work_folders import PARTIAL, occupied

MAX_SHARD_BYTES = 4 * 10**9


@contextmanager
def new_folder(registry: Registry, target: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `target` if the block succeeds, and deleted otherwise.

    The registry records the temporary folder, so garbage collection can remove it after a process was killed.
    Raises ConflictError if `target` exists; an existing folder is never changed.
    """
    target = target.absolute()
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with occupied(registry, target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}") as temporary:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            fsync(path)
        refuse_existing(target)
        temporary.rename(target)
        fsync(target.parent)


def refuse_existing(target: Path) -> None:
    """Raise ConflictError if anything has this name already, even a dangling link."""
    if os.path.lexists(target):
        raise ConflictError(f"{target} exists already: give the name of a new folder")


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Rows],
    dtypes: Mapping[str, str],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = silent,
) -> int:
    """Write tensors as `model.safetensors`, or as shards with an index. Returns the size of the tensors in bytes.

    A tensor larger than `max_shard_bytes` gets a separate shard.
    Raises ExportError for a value that its dtype cannot represent, StorageError if the disk has too little space.
    """
    sizes = {name: math.prod(t.shape) * DTYPE_BYTES[dtypes[name]] for name, t in tensors.items()}
    total = sum(sizes.values())
    require_room(folder, total)
    shards = _shards(sizes, max_shard_bytes)
    done = 0
    for file, names in shards.items():
        specs = [(name, dtypes[name], tensors[name].shape) for name in names]
        with (folder / file).open("wb") as stream:
            stream.write(canonical_header(specs))
            for name in sorted(names):
                for piece in pieces(tensors[name], dtypes[name]):
                    refuse_overflow(name, piece)
                    stream.write(np.ascontiguousarray(piece).data)
                done += sizes[name]
                progress("writing tensors", done, total)
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )
    return total


def write_json(path: Path, value: object) -> None:
    """Write indented JSON, the style of Hugging Face's own files."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shards(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """Return the tensor names of each file: names are sorted, and each file is filled up to the limit."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name in sorted(sizes):
        if groups[-1] and filled + sizes[name] > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += sizes[name]
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    count = len(groups)
    return {f"model-{i:05}-of-{count:05}.safetensors": group for i, group in enumerate(groups, 1)}


def require_room(folder: Path, size: int) -> None:
    """Raise StorageError if the disk of `folder` has less than `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(
            f"{folder.parent} has {free:,} bytes free, but {size:,} are needed: free some space first"
        )


def refuse_overflow(name: str, piece: np.ndarray) -> None:
    """Raise ExportError if a value became infinite."""
    # Blobs contain only finite numbers. Of the dtypes that an export writes, only float16 can overflow.
    if piece.dtype == np.float16 and not np.isfinite(piece).all():
        raise ExportError(
            f"tensor {name} has values outside float16's range of ±65504: export as bfloat16 or float32"
        )


def fsync(path: Path) -> None:
    """Write a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
