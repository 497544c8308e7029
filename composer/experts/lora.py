"""LoRA contributions: merge a PEFT adapter into its seed, tensor by tensor, without building a model.

    W ← W + s · B A        A [r, in], B [out, r], s = α / r (arXiv 2106.09685) or α / √r (arXiv 2312.03732)

The sum is computed in float32 and rounded once to the seed's dtype, as in PEFT's own `merge_and_unload`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from composer.experts.adapter import (
    Adapter,
    LowRank,
    check_tokenizer,
    fitted,
    is_adapter,
    read_adapter,
    template_in,
)
from composer.experts.adapter_config import check_base
from composer.progress import Progress, silent
from composer.tensors.dtypes import decode, encode
from registry.blobs import read_files
from registry.catalog import queries
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.home import Registry
from registry.intake.intake import contribute
from registry.licenses import check_license
from registry.names import check_name
from registry.records import ExpertRecord
from registry.work_folders import occupied, work_folder

__all__ = ["contribute_adapter", "is_adapter", "merge_adapter"]


def contribute_adapter(
    registry: Registry,
    name: str,
    folder: Path,
    *,
    seed: str,
    license: str,
    data: Sequence[Path] = (),
    held_out: Sequence[Path] = (),
    embedding: Path | None = None,
    description: str = "",
    provenance: Mapping[str, Any] | None = None,
    allow_unchanged: bool = False,
    allow_unrelated: bool = False,
    allow_other_base: bool = False,
    progress: Progress = silent,
) -> ExpertRecord:
    """Merge an adapter into its seed and publish the result with `registry.intake.intake.contribute`.

    The expert's provenance contains the adapter's configuration and the sha256 of its weights. An adapter of FFN
    projections only gives an anchored expert. Raises the errors of `merge_adapter` and `contribute`.
    """
    check_name(name)
    check_license(license)
    with occupied(registry, work_folder(registry, f"adapter-{uuid.uuid4().hex}")) as work:
        merged = work / "merged"
        adapter = merge_adapter(registry, seed, folder, merged, progress, allow_other_base=allow_other_base)
        return contribute(
            registry,
            name,
            merged,
            seed=seed,
            license=license,
            data=data,
            held_out=held_out,
            embedding=embedding,
            description=description,
            provenance={**(provenance or {}), "adapter": {**adapter.config, "sha256": adapter.sha256}},
            allow_unchanged=allow_unchanged,
            allow_unrelated=allow_unrelated,
            progress=progress,
        )


def merge_adapter(
    registry: Registry,
    seed_name: str,
    adapter_folder: Path,
    out_folder: Path,
    progress: Progress = silent,
    *,
    allow_other_base: bool = False,
) -> Adapter:
    """Merge an adapter into its seed and write the result to the new Hugging Face folder `out_folder`.

    With `allow_other_base`, the adapter may name a base model on the hub that is not the seed's.

    Raises NotFoundError, ConflictError (`out_folder` exists), UnsafeFileError, InvalidInputError, and
    IncompatibleError with every reason why this adapter cannot be merged into this seed.
    """
    from composer.formats.folder import new_folder, write_tensors
    from composer.formats.rows import Rows, Stored

    seed = queries.get_seed(registry, seed_name)
    blobs = registry.blobs
    files = read_files(blobs, seed.files)
    check_tokenizer(files, adapter_folder)
    adapter = read_adapter(adapter_folder)
    if not allow_other_base:
        check_base(adapter.config, adapter.folder, seed)
    stored = {**read_header(blobs.path(seed.ffn)), **read_header(blobs.path(seed.trunk))}
    sums = fitted(adapter, seed, stored)
    tensors: dict[str, Rows] = {
        name: MergedRows(info, sums[name]) if name in sums else Stored(info) for name, info in stored.items()
    }
    with new_folder(registry, Path(out_folder)) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if (template := template_in(adapter_folder)) is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        dtypes = {name: info.dtype for name, info in stored.items()}
        write_tensors(folder, tensors, dtypes, progress=progress)
    return adapter


class MergedRows:
    """A projection plus its low-rank update, computed in pieces: A is read whole, W and B by rows."""

    def __init__(self, info: TensorInfo, low_rank: LowRank) -> None:
        self.info, self.shape, self.low_rank = info, info.shape, low_rank

    def rows(self, start: int, stop: int, dtype: str) -> np.ndarray:
        """Return rows [start, stop) of W + s · B A, computed in at least float32 and rounded once."""
        from composer.formats.rows import Stored

        a, b = Stored(self.low_rank.a), Stored(self.low_rank.b)
        product = b.rows(start, stop, "F32") @ a.rows(0, a.shape[0], "F32")
        stored = decode(Stored(self.info).rows(start, stop, dtype), dtype)
        return encode(stored + product * np.float32(self.low_rank.scale), dtype)
