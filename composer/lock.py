"""The lock: what a recipe resolved to, every digest pinned."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from registry.records import Digest, DomainEmbedding, ExpertRecord, SeedRecord


class LockedSeed(BaseModel):
    """A seed, pinned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    license: str
    dtype: str
    ffn: Digest
    trunk: Digest
    files: dict[str, Digest]
    sample: Digest | None


class LockedExpert(BaseModel):
    """An expert, pinned. `dtype` is that of its blobs; `embedding` is the sha256 of its vectors' bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ref: str
    license: str
    dtype: str
    ffn_width: int
    ffn: Digest
    trunk: Digest
    embedding: Digest
    sample: Digest | None
    chunk_vectors: Digest | None


class Lock(BaseModel):
    """What a recipe resolved to. Composing a lock again gives the same bytes.

    `parent` is the manifest of the mix that is extended; `experts` then holds the appended expert alone.
    The mix's name has no part in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["nexusmix-lock/1"] = "nexusmix-lock/1"
    seed: LockedSeed
    experts: list[LockedExpert]
    embedder: str
    settings: dict[str, Any]
    parent: Digest | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal locks give equal digests."""
        return canonical_json(self.model_dump())


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def lock_seed(seed: SeedRecord) -> LockedSeed:
    """Pin a seed."""
    return LockedSeed(
        name=seed.name,
        license=seed.license,
        dtype=seed.dtype,
        ffn=seed.ffn,
        trunk=seed.trunk,
        files=seed.files,
        sample=seed.sample,
    )


def lock_expert(expert: ExpertRecord) -> LockedExpert:
    """Pin an expert."""
    return LockedExpert(
        ref=expert.ref,
        license=expert.license,
        dtype=expert.dtype,
        ffn_width=expert.ffn_width,
        ffn=expert.ffn,
        trunk=expert.trunk,
        embedding=embedding_digest(expert.embedding),
        sample=expert.sample,
        chunk_vectors=expert.chunk_vectors,
    )


def embedding_digest(embedding: DomainEmbedding) -> Digest:
    """The sha256 of a domain embedding's vectors."""
    vectors = (embedding.mean, embedding.centroids, embedding.centroid_weights)
    data = b"".join(np.ascontiguousarray(v, dtype="<f4").tobytes() for v in vectors)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
