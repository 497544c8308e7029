"""Conversion of rows to frozen records, and look-ups by reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
from sqlalchemy import BindParameter, ColumnElement, Row, Select, and_, bindparam, select
from sqlalchemy.orm import Session

from registry.database.schema import (
    Alias,
    Base,
    Embedding,
    Evaluation,
    Expert,
    ExpertLabel,
    Mix,
    Seed,
    blob_columns,
)
from registry.errors import NotFoundError
from registry.names import Ref, is_alias, name_key, parse_alias, parse_name, parse_ref
from registry.records import (
    Digest,
    DomainEmbedding,
    EmbedderId,
    ExpertRecord,
    MixRecord,
    NewExpert,
    RunRecord,
    SeedRecord,
)

_FLOAT32 = np.dtype("<f4")
_ROWS_A_TIME = 500  # databases limit the length of an IN list
_COPIED = [field.name for field in fields(ExpertRecord) if field.name in Expert.__table__.columns]


def find_seed(session: Session, name: str) -> Seed:
    """Return the row of the seed with this name. Raises NotFoundError."""
    return session.get_one(Seed, find_seed_id(session, name))


def find_seed_id(session: Session, name: str) -> int:
    """Return the id of the seed with this name. Raises NotFoundError."""
    ref = parse_name(name)
    found = session.scalar(select(Seed.id).where(Seed.name_key == ref.key))
    if found is None:
        raise NotFoundError(f"no seed '{ref}': see `nexusmix seed list`")
    return found


def find_expert(session: Session, text: str) -> Expert:
    """Return the row for `name` (its newest published version), `name@version` or `name@alias`.

    A draft or a withdrawn version is returned only if the reference names its number. Raises NotFoundError.
    """
    if is_alias(text):
        return _find_aliased(session, text)
    ref = parse_ref(text)
    rows = session.scalars(select(Expert).where(_named(Expert, ref)).order_by(Expert.version.desc())).all()
    expert = next((row for row in rows if ref.version is not None or is_published(row)), None)
    if expert is not None:
        return expert
    if rows and rows[0].withdrawn is None:
        raise NotFoundError(
            f"expert '{ref}' is a draft: name its version {ref.name}@{rows[0].version}, or publish it with `nexusmix "
            f"publish {ref.name}@{rows[0].version}`"
        )
    if rows:
        raise NotFoundError(
            f"every version of expert '{ref}' is withdrawn, the newest because: {rows[0].withdrawn}; "
            f"{ref.name}@{rows[0].version} still refers to it"
        )
    raise NotFoundError(f"no expert '{ref}': see `nexusmix list`")


def is_published(row: Expert) -> bool:
    """Return whether a version is neither a draft nor withdrawn."""
    return row.withdrawn is None and not row.draft


def _find_aliased(session: Session, text: str) -> Expert:
    alias = session.get(Alias, parse_alias(text))
    if alias is None:
        raise NotFoundError(f"no alias '{text}': create it with `nexusmix alias {text} EXPERT`")
    expert = alias.expert
    if expert.withdrawn is not None:
        raise NotFoundError(
            f"'{text}' points to {expert.name}@{expert.version}, which is withdrawn because: {expert.withdrawn}"
        )
    return expert


def find_mix(session: Session, text: str) -> Mix:
    """Return the row for `name` (its newest version) or `name@version`, unless deleted. Raises NotFoundError."""
    ref = parse_ref(text)
    # mixes that are not deleted come first: false sorts before true
    order = (Mix.deleted_at.is_not(None), Mix.version.desc())
    mix = session.scalars(select(Mix).where(_named(Mix, ref)).order_by(*order).limit(1)).first()
    if mix is None:
        raise NotFoundError(f"no mix '{ref}': see `nexusmix mixes`")
    if mix.deleted_at is not None:
        raise NotFoundError(f"mix '{ref}' was deleted on {mix.deleted_at:%Y-%m-%d}: see `nexusmix mixes`")
    return mix


def seed_record(row: Seed) -> SeedRecord:
    """Return the record of a seed."""
    converted: dict[str, Any] = {"files": {file.filename: file.digest for file in row.files}}
    return SeedRecord(**copied_fields(row, SeedRecord, converted), **converted)


def expert_record(row: Expert) -> ExpertRecord:
    """Return the record of one version of an expert."""
    converted: dict[str, Any] = {
        "seed": row.seed.name,
        "embedding": decode_embedding(row.embedding),
        "tags": tuple(sorted(label.value for label in row.labels if label.kind == "tag")),
        "authors": tuple(sorted(label.value for label in row.labels if label.kind == "author")),
        **(row.purged or {}),
    }
    return ExpertRecord(**copied_fields(row, ExpertRecord, converted), **converted)


def expert_records(session: Session, expert_ids: Sequence[int]) -> list[ExpertRecord]:
    """Return the records of experts that exist, in the order of their ids in `expert_ids`.

    Plain columns cost half of the time of mapped objects, which matters for pages and searches.
    """
    records: dict[int, ExpertRecord] = {}
    of_experts, of_labels = _record_queries()
    for start in range(0, len(expert_ids), _ROWS_A_TIME):
        part = {"ids": expert_ids[start : start + _ROWS_A_TIME]}
        labels: dict[tuple[int, str], list[str]] = defaultdict(list)
        for expert_id, kind, value in session.execute(of_labels, part):
            labels[expert_id, kind].append(value)
        for row in session.execute(of_experts, part):
            converted: dict[str, Any] = {
                "seed": row.seed_name,
                "embedding": decode_embedding(row),
                "tags": tuple(sorted(labels[row.expert_id, "tag"])),
                "authors": tuple(sorted(labels[row.expert_id, "author"])),
                **(row.purged or {}),
            }
            records[row.expert_id] = ExpertRecord(**(dict(zip(_COPIED, row, strict=False)) | converted))
    return [records[expert_id] for expert_id in expert_ids]


@cache
def _record_queries() -> tuple[Select[*tuple[Any, ...]], Select[int, str, str]]:
    """Return the queries for the columns and the labels of experts by `ids`.

    They are made once: SQLAlchemy takes longer for a new query of 40 columns than SQLite for its answer.
    """
    copied = [getattr(Expert, name) for name in _COPIED]
    vectors = [getattr(Embedding, column.key) for column in Embedding.__table__.columns if column.key != "id"]
    ids: BindParameter[int] = bindparam("ids", expanding=True)
    of_experts = select(*copied, *vectors, Expert.purged, Seed.name.label("seed_name"))
    of_labels = select(ExpertLabel.expert_id, ExpertLabel.kind, ExpertLabel.value)
    return (
        of_experts.join(Expert.seed).join(Expert.embedding).where(Expert.id.in_(ids)),
        of_labels.where(ExpertLabel.expert_id.in_(ids)),
    )


def expert_row(new: NewExpert, *, name: str, version: int, seed: Seed, anchored: bool) -> Expert:
    """Return the row of a new version of an expert; `name` is the name in its stored form."""
    converted: dict[str, Any] = {"name": name, "seed": seed, "embedding": encode_embedding(new.embedding)}
    return Expert(
        **copied_fields(new, NewExpert, converted),
        **converted,
        name_key=name_key(name),
        version=version,
        anchored=anchored,
    )


def blob_digests(row: Seed | Expert) -> list[Digest]:
    """Return the digests in every column of the row that refers to a blob."""
    columns = blob_columns(Base.metadata.tables[row.__tablename__])
    return [digest for column in columns if (digest := getattr(row, column.name)) is not None]


def mix_record(session: Session, row: Mix) -> MixRecord:
    """Return the record of one version of a mix, with its newest evaluation."""
    newest = (
        select(Evaluation.result).where(Evaluation.mix_id == row.id).order_by(Evaluation.id.desc()).limit(1)
    )
    return MixRecord(
        name=row.name,
        version=row.version,
        seed=row.seed.name,
        parent=None if row.parent is None else f"{row.parent.name}@{row.parent.version}",
        experts=tuple(f"{member.expert.name}@{member.expert.version}" for member in row.members),
        manifest=row.manifest,
        lock=row.lock,
        created_at=row.created_at,
        evaluation=session.scalar(newest),
        withdrawn=tuple(
            f"{m.expert.name}@{m.expert.version}" for m in row.members if m.expert.withdrawn is not None
        ),
        purged=tuple(
            f"{m.expert.name}@{m.expert.version}" for m in row.members if m.expert.purged_at is not None
        ),
    )


def encode_embedding(embedding: DomainEmbedding) -> Embedding:
    """Return the row of a domain embedding, with vectors as little-endian float32."""
    return Embedding(
        embedder_name=embedding.embedder.name,
        embedder_revision=embedding.embedder.revision,
        dimension=embedding.embedder.dimension,
        pooling=embedding.embedder.pooling,
        mean=embedding.mean.astype(_FLOAT32).tobytes(),
        centroids=embedding.centroids.astype(_FLOAT32).tobytes(),
        weights=embedding.centroid_weights.astype(_FLOAT32).tobytes(),
        card=None if embedding.card is None else embedding.card.astype(_FLOAT32).tobytes(),
        chunk_count=embedding.chunk_count,
        sample_sha256=embedding.sample_sha256,
    )


def decode_embedding(row: Embedding | Row[*tuple[Any, ...]]) -> DomainEmbedding:
    """Return a row's domain embedding: mean [m], centroids [c, m], weights [c], card [2, m], float32, read-only."""
    return DomainEmbedding(
        embedder=EmbedderId(row.embedder_name, row.embedder_revision, row.dimension, row.pooling),
        mean=decode_vector(row.mean),
        centroids=decode_vector(row.centroids).reshape(-1, row.dimension),
        centroid_weights=decode_vector(row.weights),
        card=None if row.card is None else decode_vector(row.card).reshape(2, row.dimension),
        chunk_count=row.chunk_count,
        sample_sha256=row.sample_sha256,
    )


def made_by(embedder: EmbedderId) -> ColumnElement[bool]:
    """Return the condition that selects the embeddings of one embedder."""
    return and_(
        Embedding.embedder_name == embedder.name,
        Embedding.embedder_revision == embedder.revision,
        Embedding.dimension == embedder.dimension,
        Embedding.pooling == embedder.pooling,
    )


def decode_vector(stored: bytes) -> np.ndarray:
    """Return the float32 values stored in a column, read-only."""
    return np.frombuffer(stored, _FLOAT32)


def copied_fields(
    source: object, record: type[SeedRecord | NewExpert | RunRecord], converted: Mapping[str, object]
) -> dict[str, Any]:
    """Return the values of the record's fields from equally named attributes, except the converted fields."""
    names = (field.name for field in fields(record) if field.name not in converted)
    return {name: getattr(source, name) for name in names}


def _named(table: type[Expert] | type[Mix], ref: Ref) -> ColumnElement[bool]:
    """Return the condition for all versions of a name, or for the version in the reference."""
    same_name = table.name_key == ref.key
    return same_name if ref.version is None else and_(same_name, table.version == ref.version)
