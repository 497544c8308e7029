"""LoRA contributions: an adapter is stored as the low-rank difference that it is, never merged into a copy of its seed.

    W = W_seed + s · B A        A [r, in], B [out, r], s = α / r (arXiv 2106.09685) or α / √r (arXiv 2312.03732)

A routed mix applies B A to the tokens of the expert. Other uses need whole weights: composer/mix/dense.py.
Shape suffixes: R rank, I in, O out.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from composer.experts.adapter import (
    Adapter,
    check_tokenizer,
    fitted,
    fitted_beyond,
    is_adapter,
    read_adapter,
    refuse_tied,
    template_in,
)
from composer.experts.adapter_config import check_base
from composer.experts.whole_adapter import Beyond, LowRank, merge
from composer.progress import Progress, silent
from composer.tensors.stream import put_float32, read, stored_tensors
from registry.blobs import BlobStore, read_files
from registry.catalog import queries
from registry.checkpoints.families import assign_roles, family_of
from registry.checkpoints.low_rank import A, pair_names, weight_name
from registry.checkpoints.preflight import Checkpoint, read_small_files
from registry.checkpoints.safe_files import printable
from registry.checkpoints.tensors import TensorInfo
from registry.checkpoints.vocabulary import of_vocabulary, token_rows
from registry.domains.rows import ChatFormat
from registry.errors import UnsafeFileError
from registry.home import Registry
from registry.intake.intake import contribute
from registry.intake.weights import CheckpointWeights, LowRankWeights, Weights, checkpoint_weights
from registry.licenses import check_license
from registry.names import check_name
from registry.records import ExpertRecord, SeedRecord
from registry.work_folders import occupied, work_folder

__all__ = ["contribute_adapter", "is_adapter", "place_adapter", "put_difference"]


@dataclass(frozen=True)
class PlacedAdapter:
    """A checked adapter, and its low-rank updates by the names of the seed's weights."""

    adapter: Adapter
    updates: Mapping[str, LowRank]
    weights: Mapping[str, TensorInfo]  # all of the seed's
    beyond: Beyond = field(default_factory=Beyond)

    @property
    def is_sum(self) -> bool:
        """Whether the adapter is a low-rank sum of projections, which is stored as it is."""
        return not self.beyond and not any(update.of_embedding for update in self.updates.values())


def contribute_adapter(
    registry: Registry,
    name: str,
    folder: Path,
    *,
    seed: str,
    license: str,
    data: Sequence[Path] = (),
    held_out: Sequence[Path] = (),
    text_column: str | None = None,
    chat: ChatFormat | None = None,
    embedding: Path | None = None,
    description: str = "",
    provenance: Mapping[str, Any] | None = None,
    allow_unchanged: bool = False,
    allow_unrelated: bool = False,
    allow_other_base: bool = False,
    draft: bool = False,
    progress: Progress = silent,
) -> ExpertRecord:
    """Publish an adapter as an expert, with `registry.intake.intake.contribute`.

    The expert's provenance contains the adapter's configuration and the sha256 of its weights. An adapter of FFN
    projections only gives an anchored expert. Raises the errors of `place_adapter` and `contribute`.
    """
    check_name(name)
    check_license(license)
    placed = place_adapter(registry, seed, folder, allow_other_base=allow_other_base)
    base = queries.get_seed(registry, seed)
    adapter = placed.adapter
    with ExitStack() as stack:
        if placed.is_sum:
            blob = put_difference(registry.blobs, placed)
            weights: Weights = LowRankWeights(
                blob, difference_by_role(registry.blobs, base, placed, blob), template_in(folder)
            )
        else:
            weights = whole_weights(registry, base, placed, stack)
        return contribute(
            registry,
            name,
            weights,
            seed=seed,
            license=license,
            data=data,
            held_out=held_out,
            text_column=text_column,
            chat=chat,
            embedding=embedding,
            description=description,
            provenance={**(provenance or {}), "adapter": {**adapter.config, "sha256": adapter.sha256}},
            allow_unchanged=allow_unchanged,
            allow_unrelated=allow_unrelated,
            draft=draft,
            progress=progress,
        )


def whole_weights(
    registry: Registry, seed: SeedRecord, placed: PlacedAdapter, stack: ExitStack
) -> CheckpointWeights:
    """Return the whole weights of an adapter that is more than a sum (whole_adapter.py).

    The changed weights are in a work folder, which exists until the stack is closed.
    """
    folder = placed.adapter.folder
    work = stack.enter_context(occupied(registry, work_folder(registry, f"merge-{uuid.uuid4().hex}")))
    merged = merge(work / "merged.safetensors", placed.weights, placed.updates, placed.beyond)
    family = family_of(seed.config)
    files, own = read_files(registry.blobs, seed.files), read_small_files(folder, ("tokenizer.json",))
    name = of_vocabulary(family)[0]
    count, rows = seed.config["vocab_size"], merged[name].shape[0]
    config = {**seed.config, "vocab_size": rows}
    roles = assign_roles(family, config, merged)
    checkpoint = Checkpoint(folder, config, family, {}, roles, token_rows(files, own or files, count, rows))
    return replace(checkpoint_weights(registry, seed, checkpoint, stack), template=template_in(folder))


def place_adapter(
    registry: Registry, seed_name: str, adapter_folder: Path, *, allow_other_base: bool = False
) -> PlacedAdapter:
    """Check an adapter and find the seed's weights that it changes.

    With `allow_other_base`, the adapter may name a base model on the hub that is not the seed's.

    Raises NotFoundError, UnsafeFileError, InvalidInputError, and IncompatibleError with every reason why this adapter
    cannot be added to this seed.
    """
    seed = queries.get_seed(registry, seed_name)
    blobs = registry.blobs
    check_tokenizer(read_files(blobs, seed.files), adapter_folder)
    adapter = read_adapter(adapter_folder)
    if not allow_other_base:
        check_base(adapter.config, adapter.folder, seed)
    stored = {**stored_tensors(blobs, seed.ffn), **stored_tensors(blobs, seed.trunk)}
    refuse_tied(seed.name, adapter, stored)
    return PlacedAdapter(adapter, fitted(adapter, seed, stored), stored, fitted_beyond(adapter, seed, stored))


def put_difference(blobs: BlobStore, placed: PlacedAdapter) -> str:
    """Store an adapter in the form of registry/checkpoints/low_rank.py, and return the blob's digest.

    One matrix is in memory at a time. Raises UnsafeFileError for NaN or infinity.
    """
    rank = max(update.a.shape[0] for update in placed.updates.values())
    targets = {name.split(".")[-2] for name in placed.updates}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, info in placed.weights.items():
        if name.endswith(".weight") and name.split(".")[-2] in targets:
            a, b = pair_names(name)
            shapes |= {a: (rank, info.shape[1]), b: (info.shape[0], rank)}

    def values(name: str) -> np.ndarray:
        matrix = np.zeros(shapes[name], np.float32)
        update = placed.updates.get(weight_name(name))
        if update is not None:
            info = update.a if name.endswith(A) else update.b
            given = read(info, 0, info.parameters)
            if not np.isfinite(given).all():
                raise UnsafeFileError(
                    f"{placed.adapter.folder}: the adapter's {printable(info.name)} contains NaN or infinity; "
                    "train it with a lower learning rate, or save it before it diverged"
                )
            scale = 1.0 if name.endswith(A) else update.scale
            matrix[: given.shape[0], : given.shape[1]] = given * np.float32(scale)
        return matrix

    return put_float32(blobs, shapes, values)


def difference_by_role(
    blobs: BlobStore, seed: SeedRecord, placed: PlacedAdapter, difference: str
) -> dict[str, dict[str, float | None]]:
    """Return cosine to the seed and share of changed weights of each role, as registry/checkpoints/descent.py does.

    Exact and without a merged copy: ⟨W, W + BA⟩ = ‖W‖² + Σ (BᵀW) ∘ A, and ‖BA‖² = Σ (BᵀB) ∘ (AAᵀ).
    """
    matrices = stored_tensors(blobs, difference)
    found = {}
    for role, stored in (("ffn", seed.ffn), ("trunk", seed.trunk)):
        square = dot = length = 0.0
        changed = total = 0
        for name, info in stored_tensors(blobs, stored).items():
            total += info.parameters
            if len(info.shape) != 2:
                continue
            w_OI = read(info, 0, info.parameters)
            norm = float(np.vdot(w_OI, w_OI))
            inner = added = 0.0
            if name in placed.updates:
                changed += info.parameters
                a_RI, b_OR = (read(matrices[n], 0, matrices[n].parameters) for n in pair_names(name))
                inner = float(np.vdot(b_OR.T @ w_OI, a_RI))
                added = float(np.vdot(b_OR.T @ b_OR, a_RI @ a_RI.T))
            square, dot, length = square + norm, dot + norm + inner, length + norm + 2 * inner + added
        cosine = dot / math.sqrt(square * length) if square > 0 and length > 0 else None
        found[role] = {"cosine": cosine, "changed": changed / total if total else None}
    return found
