"""Export: a mix as a folder that runs without the registry, in one of the formats of the table below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.errors import RecipeError
from composer.export import nexus, qwen2_moe
from composer.export.card import card_files
from composer.export.folder import MAX_SHARD_BYTES, new_folder, refuse_existing, write_json, write_tensors
from composer.export.plan import Format, weight_blobs
from composer.floats import DTYPE_NAMES
from composer.mix import find_mix
from composer.progress import Progress, silent
from composer.streaming import verifying
from registry.home import Registry

FORMATS: Mapping[str, Format] = {"nexus": nexus.plan, "qwen2_moe": qwen2_moe.plan}
DTYPES: Mapping[str, str] = {name: dtype for dtype, name in DTYPE_NAMES.items() if dtype != "F64"}


@dataclass(frozen=True)
class Export:
    """A written folder; `bytes` counts its tensors."""

    mix: str
    folder: Path
    format: str
    dtype: str
    bytes: int


def export(
    registry: Registry,
    mix_ref: str,
    folder: Path,
    *,
    format: str = "nexus",
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = silent,
) -> Export:
    """Write a mix as a Hugging Face folder, which appears whole under its name or not at all.

    `dtype` is one of DTYPES; by default the seed's. Memory stays at some pieces of tensors, whatever the model's size.
    Raises NotFoundError, RecipeError, ExportError (the format cannot express the mix), ConflictError (`folder`
    exists), IntegrityError (a damaged blob), StorageError; `folder` does not exist then.
    """
    if format not in FORMATS:
        raise RecipeError(f"no export format {format!r}; expected one of {', '.join(FORMATS)}")
    if dtype is not None and dtype not in DTYPES:
        raise RecipeError(f"no export dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    refuse_existing(folder)
    record, manifest = find_mix(registry, mix_ref)
    wanted = DTYPES[dtype] if dtype else manifest.seed.dtype
    plan = FORMATS[format](registry.blobs, manifest, wanted)
    files = {**plan.files, **card_files(registry, record, manifest, format)}
    # Hashing takes about as long as writing, and needs another core only.
    with new_folder(registry, folder) as temporary, verifying(registry.blobs, weight_blobs(manifest)):
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        write_json(temporary / "config.json", plan.config)
        written = write_tensors(
            temporary, plan.tensors, plan.dtypes(), max_shard_bytes=max_shard_bytes, progress=progress
        )
    return Export(record.ref, folder, format, DTYPE_NAMES[wanted], written)
