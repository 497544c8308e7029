"""Export: write a mix as a folder that runs without the registry, in one of the formats of composer/variants.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer.errors import RecipeError
from composer.formats.card import card_files
from composer.formats.folder import MAX_SHARD_BYTES, new_folder, refuse_existing
from composer.formats.plan import DTYPES as FLOATS
from composer.formats.plan import Format, weight_blobs
from composer.formats.quantize import Quantizer
from composer.mix.opening import find_mix
from composer.progress import Progress, silent
from composer.tensors.stream import verifying
from composer.variants import EXPORT_FORMATS
from registry.catalog.lifecycle import refuse_purged
from registry.checkpoints.dtypes import DTYPE_NAMES
from registry.home import Registry
from registry.paths import PathLike, as_path


@dataclass(frozen=True)
class Export:
    """A written folder; `bytes` is the total size of its tensors."""

    mix: str
    folder: Path
    format: str
    dtype: str
    bytes: int


def export(
    registry: Registry,
    mix_ref: str,
    folder: PathLike,
    *,
    format: str = "nexus",
    dtype: str | None = None,
    quantize: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = silent,
) -> Export:
    """Write a mix to the new folder `folder`, which appears only when it is complete.

    `dtype` is one of the format's dtypes; the default is the seed's. Tensors are written in pieces, so memory use
    does not grow with the model. `max_shard_bytes` does not apply to GGUF, which is always one file. `quantize` is a
    type such as Q4_K_M, to which llama.cpp's own tool converts a GGUF file.

    Raises NotFoundError, RecipeError, ExportError (the format cannot express the mix, or the tool is not installed or
    fails), ConflictError (`folder` exists), IntegrityError (a damaged blob), StorageError. On any of them, no folder
    is created.
    """
    folder = as_path(folder)
    try:
        chosen: Format = EXPORT_FORMATS.find(format).load()
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if dtype is not None and dtype not in chosen.dtypes:
        raise RecipeError(
            f"format {format} has no dtype {dtype!r}; expected one of {', '.join(chosen.dtypes)}"
        )
    quantizer = _quantizer(chosen, format, dtype, quantize) if quantize is not None else None
    refuse_existing(folder)
    record, manifest = find_mix(registry, mix_ref)
    refuse_purged(registry, record.ref, record.experts)
    wanted = chosen.dtypes[dtype] if dtype else manifest.seed.dtype
    plan = chosen.plan(registry.blobs, manifest, wanted)
    files = {**plan.files, **card_files(registry, record, manifest, format)}
    # Hashing takes about as long as writing, so it runs at the same time on another core.
    with new_folder(registry, folder) as temporary, verifying(registry.blobs, weight_blobs(manifest)):
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        written = plan.write(temporary, max_shard_bytes=max_shard_bytes, progress=progress)
        if quantizer is not None:
            progress("quantising", 0, 1)
            written = quantizer.run(temporary)
    said = quantize or DTYPE_NAMES.get(plan.dtype, plan.dtype.lower())
    return Export(record.ref, folder, format, said, written)


def _quantizer(chosen: Format, format: str, dtype: str | None, quantize: str) -> Quantizer:
    """Find the tool before anything is written. Raises RecipeError, ExportError."""
    if chosen.quantizer is None:
        raise RecipeError(f"format {format} has no quantised types, got {quantize!r}; use --format gguf")
    if dtype is not None and dtype not in FLOATS:
        raise RecipeError(f"{quantize} is quantised from a float type, got {dtype}; leave out the dtype")
    return chosen.quantizer(quantize)
