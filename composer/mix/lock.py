"""The lock: what a recipe resolved to, every digest pinned."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from composer.errors import MixFormatError
from composer.mix.recipe import RouterName, Training
from composer.mix.routing import RoutingOptions
from composer.trunks import NamedMerge, TrunkMergeChoice, chosen_merge
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


class ExtensionSettings(BaseModel):
    """How a mix is extended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    training: Training
    license_override: str | None = None


class Settings(ExtensionSettings, RoutingOptions):
    """A recipe's fields but for its name, its seed and its experts."""

    router: RouterName
    # The first version wrote the name alone where a merge had no parameters.
    trunk_merge: Annotated[str | TrunkMergeChoice, Field(union_mode="left_to_right")]

    @property
    def merge(self) -> NamedMerge:
        """The trunk merge with its parameters."""
        return chosen_merge(self.trunk_merge) if isinstance(self.trunk_merge, str) else self.trunk_merge


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
    settings: Settings | ExtensionSettings
    parent: Digest | None = None

    @field_serializer("settings")
    def _as_given(self, settings: ExtensionSettings) -> dict[str, Any]:
        """Without the fields that the lock's version did not have: an old lock keeps its digest."""
        return settings.model_dump(exclude_unset=True)

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> Lock:
        if isinstance(self.settings, Settings) != (self.parent is None):
            raise ValueError(
                "a lock without a parent needs all settings, one with a parent those of an extension"
            )
        return self

    @property
    def composed(self) -> Settings:
        """The settings of a composition. Raises MixFormatError where the lock extends a mix."""
        if not isinstance(self.settings, Settings):
            raise MixFormatError("this lock extends a mix: recompose it with extend_lock")
        return self.settings

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
