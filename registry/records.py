"""Records that the registry returns: frozen and detached from the database session.

m is the embedder's dimension, c the number of centroids. Digests are "sha256:<64 hex>".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

Digest = str
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class EmbedderId:
    """Identity of the external embedder that computed a vector; vectors of different embedders are never compared."""

    name: str
    revision: str
    dimension: int
    pooling: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision} ({self.dimension}, {self.pooling})"


@dataclass(frozen=True)
class TokenProfile:
    """Log-frequencies of a domain's tokens [V] and hashed token pairs, float16; `tokenizer` counted them.

    `strength` is that of the expert on the same text (composer/routed_trunk/strengths.py), if its owner measured it.
    """

    tokenizer: Digest
    unigrams: np.ndarray
    bigrams: np.ndarray
    strength: float | None = None


@dataclass(frozen=True)
class DomainEmbedding:
    """A domain as the embedder sees it: the mean over a sample's chunks, and its centroids.

    mean [m], centroids [c, m] and centroid_weights [c] (they sum to 1) are float32; the centroids are
    L2-normalised, the mean is not: its length measures how concentrated the domain is.
    """

    embedder: EmbedderId
    mean: np.ndarray
    centroids: np.ndarray
    centroid_weights: np.ndarray
    chunk_count: int
    sample_sha256: str
    profile: TokenProfile | None = (
        None  # only in a file that replaces text; stored as a blob, not with the vectors
    )
    card: np.ndarray | None = None  # unit vectors [2, m] of the expert's description and name; in no file


@dataclass(frozen=True)
class SeedRecord:
    """A published seed. `files` maps a small file's name (config.json, tokenizer.json …) to its digest."""

    name: str
    license: str
    description: str
    model_type: str
    config: dict[str, Any]
    dtype: str
    parameters: int
    ffn: Digest
    trunk: Digest
    files: dict[str, Digest]
    sample: Digest | None
    held_out: Digest | None
    chunk_vectors: Digest | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class NewExpert:
    """Fields of an expert that its publisher gives. Rows and records copy them by name.

    To add a field, add it here, to `database.schema.Expert` (with a migration) and to `intake.contribute`.
    """

    name: str
    seed: str
    license: str
    description: str
    dtype: str
    parameters: int
    ffn_width: int
    ffn: Digest
    trunk: Digest
    embedding: DomainEmbedding
    sample: Digest | None
    held_out: Digest | None
    chunk_vectors: Digest | None
    profile: Digest | None = None  # token profile, where it replaces text
    # Low-rank (checkpoints/low_rank.py): the expert is `ffn` and `trunk`, which are the seed's, plus this.
    difference: Digest | None = None
    chat_template: Digest | None = None  # Jinja, where the checkpoint came with one
    draft: bool = False  # lists, searches and references without a version do not find it
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExpertRecord(NewExpert):
    """One version of an expert. Its weights and domain are immutable; its state, tags and authors are not.

    A purged version keeps the digests of the bytes that it had.
    """

    version: int
    anchored: bool
    withdrawn: str | None
    purged_at: datetime | None
    tags: tuple[str, ...]
    authors: tuple[str, ...]
    created_at: datetime

    @property
    def state(self) -> Literal["draft", "published", "withdrawn", "purged"]:
        """The state in the life of a version."""
        if self.purged_at is not None:
            return "purged"
        return "withdrawn" if self.withdrawn is not None else "draft" if self.draft else "published"

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Domain:
    """Domain of one version of an expert: the mean [m] of its domain embedding, computed by `embedder`."""

    name: str
    version: int
    description: str
    seed: str
    embedder: EmbedderId
    mean: np.ndarray

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class MixRecord:
    """One published version of a mix: a manifest over blobs. `evaluation` is the newest one, if any."""

    name: str
    version: int
    seed: str
    parent: str | None
    experts: tuple[str, ...]
    manifest: Digest
    lock: Digest
    created_at: datetime
    evaluation: dict[str, Any] | None = field(default=None)
    withdrawn: tuple[str, ...] = ()  # those of its experts that are withdrawn or purged
    purged: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Hit:
    """A search result. `passage` is the expert's stored text that is nearest to the query, if it was read.

    The score is the mean of two cosines with the query: that of the expert's nearest text, and that of its name
    (registry/domains/scores.py).
    """

    expert: ExpertRecord
    score: float
    passage: str | None = None


@dataclass(frozen=True)
class ExpertPage:
    """One page of a list of experts. `next` is the cursor of the next page; None on the last one."""

    experts: list[ExpertRecord]
    next: str | None


@dataclass(frozen=True)
class AccountRecord:
    """A user of a shared registry."""

    name: str
    role: str
    email: str | None
    created_at: datetime


@dataclass(frozen=True)
class EventRecord:
    """One change of the registry: who did what to which subject, and the digest of the subject, if it has one."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    digest: Digest | None
    detail: dict[str, Any]


@dataclass(frozen=True)
class Leftover:
    """A file or folder that a killed process left behind, and its size in bytes."""

    path: Path
    size: int


@dataclass(frozen=True)
class Fence:
    """Fencing token of one attempt at a run: it permits writes until the run is claimed again."""

    run_id: int
    token: int


class Metric(NamedTuple):
    """A metric that a run reports, such as ("loss", 120, 2.31); a repeated step replaces the old value."""

    name: str
    step: int
    value: float


@dataclass(frozen=True)
class RunRecord:
    """Snapshot of one run in the queue.

    `request` contains the arguments of the use case and `result` its return value. `published` is set as soon
    as the run has published something, for instance {"mix": "team@1"}. `attempt` is 0 until the first claim.
    A `total` of 0 means that the length of the stage is unknown. `log` is the tail of the work's output; it is
    empty in lists.
    """

    id: int
    kind: str
    request: dict[str, Any]
    state: RunState
    attempt: int
    max_attempts: int
    token: int
    worker: str | None
    actor: str | None
    lease_until: datetime | None
    heartbeat_at: datetime | None
    cancel_requested: bool
    stage: str | None
    done: int
    total: int
    stage_started_at: datetime | None
    log: str
    published: dict[str, Any] | None
    result: dict[str, Any] | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_live(self) -> bool:
        """Whether the run has not ended yet."""
        return self.state in ("queued", "running")

    @property
    def fence(self) -> Fence:
        """The fencing token of the worker that claimed this record."""
        return Fence(self.id, self.token)
