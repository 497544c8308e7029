"""Weights of a contribution: a checked checkpoint to be copied into the store, or a low-rank difference in it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from registry.checkpoints.canonical import Progress, canonical_size, write_canonical
from registry.checkpoints.descent import check_descent, refuse_apart
from registry.checkpoints.families import Roles, assign_roles, family_of
from registry.checkpoints.preflight import Checkpoint
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.checkpoints.tokenizers import chat_template
from registry.checkpoints.vocabulary import NONE, reordered
from registry.home import Registry
from registry.records import Digest, SeedRecord
from registry.work_folders import occupied, work_folder

Report = Mapping[str, Mapping[str, float | None]]  # by role: cosine to the seed, share of changed weights


class Weights(Protocol):
    """Weights of an expert before they are published, and the chat template that came with them."""

    @property
    def template(self) -> str | None: ...

    @property
    def remarks(self) -> dict[str, Any]:
        """Changes to the weights on the way, for the expert's provenance."""
        ...

    def check(
        self, registry: Registry, seed: SeedRecord, *, allow_unchanged: bool, allow_unrelated: bool
    ) -> Report:
        """Return the difference from the seed. Raises IncompatibleError if there is none, or if it is too large."""
        ...

    def store(self, registry: Registry, seed: SeedRecord, progress: Progress | None) -> dict[str, Any]:
        """Store the weights, and return the fields of a NewExpert that they determine."""
        ...


@dataclass(frozen=True)
class CheckpointWeights:
    """All tensors of a checkpoint, by role."""

    roles: Roles
    template: str | None = None
    remarks: dict[str, Any] = field(default_factory=dict)

    def check(
        self, registry: Registry, seed: SeedRecord, *, allow_unchanged: bool, allow_unrelated: bool
    ) -> Report:
        """Compare a sample of the weights (registry/checkpoints/descent.py)."""
        return check_descent(
            _headers(registry, seed),
            self.roles,
            allow_unchanged=allow_unchanged,
            allow_unrelated=allow_unrelated,
        )

    def store(self, registry: Registry, seed: SeedRecord, progress: Progress | None) -> dict[str, Any]:
        """Copy the tensors into two blobs."""
        ffn, trunk = store_roles(registry, self.roles, progress)
        roles = self.roles
        sizes = {"dtype": roles.dtype, "parameters": roles.parameters, "ffn_width": roles.ffn_width}
        return {**sizes, "ffn": ffn, "trunk": trunk}


def checkpoint_weights(
    registry: Registry, seed: SeedRecord, checkpoint: Checkpoint, stack: ExitStack
) -> CheckpointWeights:
    """Return the weights of a checked checkpoint, with the embedding in the seed's order.

    Where that needs a copy, it is written to a work folder, which exists until the stack is closed.
    """
    roles, remarks = checkpoint.roles, dict[str, Any]()
    if roles.wrappers:
        remarks["wrappers_removed"] = list(roles.wrappers)
    if checkpoint.rows is not None:
        trunk = _headers(registry, seed)["trunk"]
        work = stack.enter_context(occupied(registry, work_folder(registry, f"intake-{uuid.uuid4().hex}")))
        moved = reordered(
            work / "vocabulary.safetensors", checkpoint.family, trunk, roles.trunk, checkpoint.rows
        )
        roles = replace(roles, trunk=moved)
        found = sum(row != NONE for row in checkpoint.rows)
        remarks["vocabulary"] = [f"{found:,} of the seed's {len(checkpoint.rows):,} rows are the expert's"]
    return CheckpointWeights(roles, chat_template(checkpoint.files), remarks)


@dataclass(frozen=True)
class LowRankWeights:
    """A blob of registry/checkpoints/low_rank.py, and its difference from the seed by role."""

    difference: Digest
    report: Report
    template: str | None = None

    @property
    def remarks(self) -> dict[str, Any]:
        """Return nothing: the adapter's configuration is in the provenance."""
        return {}

    def check(
        self, registry: Registry, seed: SeedRecord, *, allow_unchanged: bool, allow_unrelated: bool
    ) -> Report:
        """Check the report. A difference of zero does not reach this: its reader refuses it."""
        if not allow_unrelated:
            refuse_apart({role: each["cosine"] for role, each in self.report.items()})
        return self.report

    def store(self, registry: Registry, seed: SeedRecord, progress: Progress | None) -> dict[str, Any]:
        """Refer to the seed's blobs and to the difference."""
        headers = _headers(registry, seed)
        infos = {**headers["ffn"], **headers["trunk"]}
        width = assign_roles(family_of(seed.config), seed.config, infos).ffn_width
        sizes = {"dtype": seed.dtype, "parameters": seed.parameters, "ffn_width": width}
        return {**sizes, "ffn": seed.ffn, "trunk": seed.trunk, "difference": self.difference}


def _headers(registry: Registry, seed: SeedRecord) -> dict[str, dict[str, TensorInfo]]:
    """The seed's tensors by role."""
    blobs = {"ffn": seed.ffn, "trunk": seed.trunk}
    return {role: read_header(registry.blobs.path(blob, verify=False)) for role, blob in blobs.items()}


def store_roles(registry: Registry, roles: Roles, progress: Progress | None) -> tuple[Digest, Digest]:
    """Stream a checkpoint into its two canonical blobs: each byte is read, checked and hashed once.

    The trunk is stored in parallel with the FFNs, in another thread; only this thread reports progress.
    """
    ffn_bytes, trunk_bytes = canonical_size(roles.ffn), canonical_size(roles.trunk)

    def store_trunk() -> Digest:
        with registry.blobs.writer(trunk_bytes) as writer:
            write_canonical(writer, roles.trunk)
        return writer.digest

    # The first writer checks the space for both blobs, so a full disk is detected before anything is copied.
    with registry.blobs.writer(ffn_bytes + trunk_bytes) as ffn, ThreadPoolExecutor(max_workers=1) as beside:
        trunk = beside.submit(store_trunk)
        write_canonical(ffn, roles.ffn, stage="ffn", progress=progress)
        digest = trunk.result()
    if progress is not None:
        progress("trunk", trunk_bytes, trunk_bytes)
    return ffn.digest, digest
