"""The lock: a resolved recipe in which every digest is pinned."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)

from composer.errors import MixFormatError
from composer.mix.recipe import RouterName, Training
from composer.mix.routing import RoutingOptions
from composer.trunks import NamedMerge, TrunkMergeChoice, chosen_merge
from registry.records import Digest, DomainEmbedding, ExpertRecord, SeedRecord


class LockedSeed(BaseModel):
    """A pinned seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    license: str
    dtype: str
    ffn: Digest
    trunk: Digest
    files: dict[str, Digest]
    sample: Digest | None


class LockedExpert(BaseModel):
    """A pinned expert. `dtype` is that of its FFNs and trunk.

    `embedding` is the sha256 of its embedding vectors' bytes.
    """

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
    profile: Digest | None = None
    difference: Digest | None = None  # low-rank; its sum with `ffn` and `trunk`, the seed's, is the expert
    chat_template: Digest | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit absent new fields: locks and manifests from before them keep their digests."""
        fields: dict[str, Any] = dump(self)
        for name in ("profile", "difference", "chat_template"):
            if getattr(self, name) is None:
                fields.pop(name, None)
        return fields

    @property
    def weights(self) -> list[Digest]:
        """Blobs of the expert's weights."""
        return [digest for digest in (self.ffn, self.trunk, self.difference) if digest is not None]


class ExtensionSettings(BaseModel):
    """Settings of an extension."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    training: Training
    license_override: str | None = None


class Settings(ExtensionSettings, RoutingOptions):
    """Settings of a composition: a recipe's fields without its name, seed and experts."""

    router: RouterName
    # Locks of the first version contain only the name of a merge without parameters.
    trunk_merge: Annotated[str | TrunkMergeChoice, Field(union_mode="left_to_right")]

    @property
    def merge(self) -> NamedMerge:
        """Trunk merge with its parameters."""
        return chosen_merge(self.trunk_merge) if isinstance(self.trunk_merge, str) else self.trunk_merge


class Lock(BaseModel):
    """A resolved recipe. Composing a lock again gives the same bytes.

    In the lock of an extension, `parent` is the manifest of the mix to extend, and `experts` contains only the
    appended expert. A lock does not contain the mix's name.
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
        """Write only the fields that were set, so that a lock of an older version keeps its digest."""
        return settings.model_dump(exclude_unset=True)

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> Lock:
        if isinstance(self.settings, Settings) != (self.parent is None):
            raise ValueError(
                "a lock without a parent needs all settings of a composition; "
                "a lock with a parent needs only those of an extension"
            )
        return self

    @property
    def composed(self) -> Settings:
        """Settings of a composition. Raises MixFormatError if the lock extends a mix."""
        if not isinstance(self.settings, Settings):
            raise MixFormatError("this lock extends a mix, it does not compose one: use extend_lock")
        return self.settings

    def to_bytes(self) -> bytes:
        """Return canonical JSON, so that equal locks give equal digests."""
        return canonical_json(self.model_dump())


def canonical_json(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys and no spaces."""
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
        profile=expert.profile,
        difference=expert.difference,
        chat_template=expert.chat_template,
    )


def embedding_digest(embedding: DomainEmbedding) -> Digest:
    """Compute the sha256 of a domain embedding's vectors."""
    vectors = (embedding.mean, embedding.centroids, embedding.centroid_weights)
    data = b"".join(np.ascontiguousarray(v, dtype="<f4").tobytes() for v in vectors)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
