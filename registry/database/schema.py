"""Tables as typed ORM classes. SQL is the source of truth for blobs and for the search index.

Every digest column is a foreign key to `blobs`. So garbage collection finds the columns that keep a blob alive
from the metadata alone. Vectors are little-endian float32 bytes; m is the embedder's dimension, c the
number of centroids.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

REVISION = "0013"  # the newest migration, which these classes describe


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware datetime in UTC; SQLite stores no time zone, so it is added on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base class: constraint names follow one rule, so that later migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, datetime: UtcDateTime, bytes: LargeBinary}  # noqa: RUF012


def _now() -> datetime:
    return datetime.now(UTC)


def _blob(*, primary_key: bool = False, nullable: bool = False) -> MappedColumn[Any]:
    return mapped_column(String(71), ForeignKey("blobs.digest"), primary_key=primary_key, nullable=nullable)


def blob_columns(table: Table) -> list[Column[Any]]:
    """Return the table's columns that are foreign keys to `blobs`."""
    return [
        column
        for column in table.columns
        if any(key.target_fullname == "blobs.digest" for key in column.foreign_keys)
    ]


class Account(Base):
    """A user of a shared registry; `token_hash` is a salt and a hash, joined by a dollar sign."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    name_key: Mapped[str] = mapped_column(String(400), unique=True)
    role: Mapped[str] = mapped_column(String(20))
    email: Mapped[str | None] = mapped_column(String(254), unique=True)
    token_hash: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=_now)


class Favourite(Base):
    """An expert or a mix, by name, that a user starred; `actor` is the name in `registry.access.Actor`."""

    __tablename__ = "favourites"

    actor: Mapped[str] = mapped_column(String(200), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), primary_key=True)
    name_key: Mapped[str] = mapped_column(String(400), primary_key=True)


class Event(Base):
    """One change of the registry. Triggers of the database refuse to change or delete an event."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=_now)
    actor: Mapped[str] = mapped_column(String(200), index=True)
    action: Mapped[str] = mapped_column(String(50))
    subject: Mapped[str] = mapped_column(Text, index=True)
    digest: Mapped[str | None] = mapped_column(String(71))
    detail: Mapped[dict[str, Any]]


class DatabaseId(Base):
    """One row: the database's permanent id, which identifies it to a blob store."""

    __tablename__ = "database_id"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)


class Blob(Base):
    """A file in the artifact store that a row refers to; size in bytes."""

    __tablename__ = "blobs"

    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=_now)


class Seed(Base):
    """The dense model that a family of experts branched from."""

    __tablename__ = "seeds"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    name_key: Mapped[str] = mapped_column(String(400), unique=True)
    license: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    model_type: Mapped[str] = mapped_column(String(100))
    config: Mapped[dict[str, Any]]
    dtype: Mapped[str] = mapped_column(String(20))
    parameters: Mapped[int] = mapped_column(BigInteger)
    ffn: Mapped[str] = _blob()
    trunk: Mapped[str] = _blob()
    sample: Mapped[str | None] = _blob(nullable=True)
    held_out: Mapped[str | None] = _blob(nullable=True)
    chunk_vectors: Mapped[str | None] = _blob(nullable=True)
    created_at: Mapped[datetime] = mapped_column(default=_now)

    files: Mapped[list[SeedFile]] = relationship(order_by="SeedFile.filename", lazy="selectin")


class SeedFile(Base):
    """A small file of a seed: config.json, tokenizer.json …"""

    __tablename__ = "seed_files"

    seed_id: Mapped[int] = mapped_column(ForeignKey("seeds.id"), primary_key=True)
    filename: Mapped[str] = mapped_column(String(255), primary_key=True)
    digest: Mapped[str] = _blob()


class Expert(Base):
    """One version of an expert; its weights and domain never change.

    `withdrawn` is the reason. A purged version refers to no blob of its own; `purged` contains the digests as text.
    """

    __tablename__ = "experts"
    __table_args__ = (
        UniqueConstraint("name_key", "version"),
        # one per order of a list, alone and below each filter that is often narrow
        Index("ix_experts_seed_id_name_key", "seed_id", "name_key", "version"),
        Index("ix_experts_license_name_key", "license", "name_key", "version"),
        Index("ix_experts_seed_id_created_at", "seed_id", "created_at", "id"),
        Index("ix_experts_license_created_at", "license", "created_at", "id"),
        Index("ix_experts_seed_id_parameters", "seed_id", "parameters", "id"),
        Index("ix_experts_license_parameters", "license", "parameters", "id"),
        Index("ix_experts_created_at", "created_at", "id"),
        Index("ix_experts_parameters", "parameters", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    name_key: Mapped[str] = mapped_column(String(400))
    version: Mapped[int]
    seed_id: Mapped[int] = mapped_column(ForeignKey("seeds.id"), index=True)
    license: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    dtype: Mapped[str] = mapped_column(String(20))
    parameters: Mapped[int] = mapped_column(BigInteger)
    ffn_width: Mapped[int]
    ffn: Mapped[str] = _blob()
    trunk: Mapped[str] = _blob()
    anchored: Mapped[bool]
    sample: Mapped[str | None] = _blob(nullable=True)
    held_out: Mapped[str | None] = _blob(nullable=True)
    chunk_vectors: Mapped[str | None] = _blob(nullable=True)
    profile: Mapped[str | None] = _blob(nullable=True)
    difference: Mapped[str | None] = _blob(nullable=True)
    chat_template: Mapped[str | None] = _blob(nullable=True)
    provenance: Mapped[dict[str, Any]]
    withdrawn: Mapped[str | None] = mapped_column(Text)
    draft: Mapped[bool] = mapped_column(default=False, server_default=false())
    purged_at: Mapped[datetime | None]
    purged: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    readme: Mapped[str | None] = mapped_column(Text, deferred=True)
    created_at: Mapped[datetime] = mapped_column(default=_now)

    seed: Mapped[Seed] = relationship(lazy="joined", innerjoin=True)
    labels: Mapped[list[ExpertLabel]] = relationship(
        order_by="ExpertLabel.value", lazy="selectin", cascade="all, delete-orphan"
    )
    embedding: Mapped[Embedding] = relationship(lazy="joined", innerjoin=True, back_populates="expert")


class ExpertLabel(Base):
    """A tag or an author of an expert version, by which lists are filtered."""

    __tablename__ = "expert_labels"
    __table_args__ = (Index("ix_expert_labels_kind_value", "kind", "value", "expert_id"),)

    expert_id: Mapped[int] = mapped_column(ForeignKey("experts.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), primary_key=True)
    value: Mapped[str] = mapped_column(String(100), primary_key=True)


class Alias(Base):
    """A word that refers to one version of an expert, as in `python@stable`; it may be moved to another version."""

    __tablename__ = "aliases"

    name_key: Mapped[str] = mapped_column(String(400), primary_key=True)
    alias: Mapped[str] = mapped_column(String(32), primary_key=True)
    expert_id: Mapped[int] = mapped_column(ForeignKey("experts.id"))

    expert: Mapped[Expert] = relationship(lazy="joined", innerjoin=True)


class Embedding(Base):
    """An expert's domain embedding: mean [m], centroids [c, m], weights [c] and card [2, m] as float32 bytes.

    `card` is missing in rows of earlier versions until a search computes it.
    """

    __tablename__ = "embeddings"

    id: Mapped[int] = mapped_column(primary_key=True)
    expert_id: Mapped[int] = mapped_column(ForeignKey("experts.id"), unique=True)
    embedder_name: Mapped[str] = mapped_column(Text)
    embedder_revision: Mapped[str] = mapped_column(Text)
    dimension: Mapped[int]
    pooling: Mapped[str] = mapped_column(String(50))
    mean: Mapped[bytes]
    centroids: Mapped[bytes]
    weights: Mapped[bytes]
    card: Mapped[bytes | None]
    chunk_count: Mapped[int]
    sample_sha256: Mapped[str] = mapped_column(String(71))

    expert: Mapped[Expert] = relationship(back_populates="embedding")


class Mix(Base):
    """One version of a mix; its parent is the mix that it was extended from.

    A deleted mix keeps its row, manifest and lock, so that its version is never reused; it is not listed.
    """

    __tablename__ = "mixes"
    __table_args__ = (UniqueConstraint("name_key", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    name_key: Mapped[str] = mapped_column(String(400))
    version: Mapped[int]
    seed_id: Mapped[int] = mapped_column(ForeignKey("seeds.id"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("mixes.id"))
    manifest: Mapped[str] = _blob()
    lock: Mapped[str] = _blob()
    created_at: Mapped[datetime] = mapped_column(default=_now)
    deleted_at: Mapped[datetime | None]

    seed: Mapped[Seed] = relationship(lazy="joined", innerjoin=True)
    parent: Mapped[Mix | None] = relationship(remote_side=[id], lazy="selectin", join_depth=1)
    members: Mapped[list[MixExpert]] = relationship(order_by="MixExpert.position", lazy="selectin")
    blobs: Mapped[list[MixBlob]] = relationship(order_by="MixBlob.digest")


class MixBlob(Base):
    """A blob that a mix refers to: its own or an expert's."""

    __tablename__ = "mix_blobs"

    mix_id: Mapped[int] = mapped_column(ForeignKey("mixes.id"), primary_key=True)
    digest: Mapped[str] = _blob(primary_key=True)


class MixExpert(Base):
    """A routed expert of a mix, with its index in the router (from 0)."""

    __tablename__ = "mix_experts"

    mix_id: Mapped[int] = mapped_column(ForeignKey("mixes.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    expert_id: Mapped[int] = mapped_column(ForeignKey("experts.id"), index=True)

    expert: Mapped[Expert] = relationship(lazy="joined", innerjoin=True)


class Evaluation(Base):
    """One evaluation of a mix; the newest has the highest id."""

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(primary_key=True)
    mix_id: Mapped[int] = mapped_column(ForeignKey("mixes.id"), index=True)
    result: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class Measurement(Base):
    """Measurement of an expert alone on the text of several domains; the newest has the highest id."""

    __tablename__ = "measurements"

    id: Mapped[int] = mapped_column(primary_key=True)
    expert_id: Mapped[int] = mapped_column(ForeignKey("experts.id"), index=True)
    result: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=_now)


_LIVE = text("state IN ('queued', 'running')")


class Run(Base):
    """One long-running job. `token` increases with every claim; only the worker with the newest token may write."""

    __tablename__ = "runs"
    __table_args__ = (
        # The same request is in the queue at most once; it may be submitted again after it has ended. The
        # migration creates this index for PostgreSQL too. It is not declared here for PostgreSQL, because that
        # would import that dialect and asyncio into every command.
        Index("uq_runs_key_live", "key", unique=True, sqlite_where=_LIVE),
        Index("ix_runs_state", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(50))
    request: Mapped[dict[str, Any]]
    key: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(20), default="queued")
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int]
    token: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(200))
    actor: Mapped[str | None] = mapped_column(String(200))  # who queued it; None in rows of earlier versions
    lease_until: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    stage: Mapped[str | None] = mapped_column(Text)
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int] = mapped_column(BigInteger, default=0)
    stage_started_at: Mapped[datetime | None]
    log: Mapped[str] = mapped_column(Text, default="")
    published: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class RunMetric(Base):
    """A metric that a run reported, such as its loss at a training step."""

    __tablename__ = "run_metrics"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    value: Mapped[float] = mapped_column(Double)
