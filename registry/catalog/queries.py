"""The catalog: find, list, search and withdraw what is published, and publish mixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from sqlalchemy import ColumnElement, func, not_, select
from sqlalchemy.orm import Session

from registry.catalog.publish import (
    publish_expert,
    publish_mix,
    publish_seed,
    record_evaluation,
    record_measurement,
    withdraw,
)
from registry.catalog.verification import Problem, verify
from registry.database.rows import (
    decode_vector,
    expert_record,
    find_expert,
    find_mix,
    find_seed,
    made_by,
    mix_record,
    seed_record,
)
from registry.database.schema import (
    Embedding,
    Evaluation,
    Expert,
    Measurement,
    Mix,
    MixExpert,
    Seed,
)
from registry.errors import InvalidEmbeddingError, InvalidInputError
from registry.home import Registry
from registry.names import name_key
from registry.records import Domain, EmbedderId, ExpertRecord, Hit, MixRecord, SeedRecord

if TYPE_CHECKING:
    from registry.domains.embedding import Embedder

__all__ = [
    "Problem",
    "Sides",
    "count_experts",
    "experts_stamp",
    "get_expert",
    "get_measurement",
    "get_mix",
    "get_parts",
    "get_seed",
    "list_domains",
    "list_experts",
    "list_licenses",
    "list_mixes",
    "list_refs",
    "list_seeds",
    "list_versions",
    "publish_expert",
    "publish_mix",
    "publish_seed",
    "record_evaluation",
    "record_measurement",
    "search",
    "verify",
    "withdraw",
]


class Sides(TypedDict, total=False):
    """What experts are narrowed by; a side that is absent or None is open.

    `parameters` are from the first number up to, not including, the second, None being no limit. `measured` ones
    were measured alone, or in a mix that holds them.
    """

    seed: str | None
    license: str | None
    anchored: bool | None
    parameters: tuple[int, int | None] | None
    measured: bool | None


def get_seed(registry: Registry, name: str) -> SeedRecord:
    """The seed of that name. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return seed_record(find_seed(session, name))


def list_seeds(registry: Registry) -> list[SeedRecord]:
    """Every seed, by name."""
    with registry.session(read_only=True) as session:
        return [seed_record(row) for row in session.scalars(select(Seed).order_by(Seed.name_key))]


def get_expert(registry: Registry, ref: str) -> ExpertRecord:
    """The expert that `name` (its newest version not withdrawn), `name@version` or `name@alias` means.

    Raises NotFoundError. A withdrawn version is found when it is asked for by its number.
    """
    with registry.session(read_only=True) as session:
        return expert_record(find_expert(session, ref))


def get_parts(registry: Registry, seed: str, experts: Sequence[str]) -> tuple[SeedRecord, list[ExpertRecord]]:
    """A seed and experts, each as `get_seed` and `get_expert` find it, read in one session. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        found = seed_record(find_seed(session, seed))
        return found, [expert_record(find_expert(session, ref)) for ref in experts]


def list_experts(
    registry: Registry,
    *,
    include_withdrawn: bool = False,
    limit: int | None = None,
    offset: int = 0,
    **sides: Unpack[Sides],
) -> list[ExpertRecord]:
    """Every version of every expert, by name and version; a page of them with `limit` and `offset`.

    Raises NotFoundError for an unknown seed.
    """
    with registry.session(read_only=True) as session:
        wanted = _wanted(session, sides, include_withdrawn)
        query = select(Expert).where(*wanted).order_by(Expert.name_key, Expert.version)
        return [expert_record(row) for row in session.scalars(query.limit(limit).offset(offset))]


def count_experts(registry: Registry, *, include_withdrawn: bool = False, **sides: Unpack[Sides]) -> int:
    """How many `list_experts` lists without a limit. Raises NotFoundError for an unknown seed."""
    with registry.session(read_only=True) as session:
        wanted = _wanted(session, sides, include_withdrawn)
        return session.scalar(select(func.count()).select_from(Expert).where(*wanted)) or 0


def list_refs(registry: Registry, *, embedder: EmbedderId | None = None, **sides: Unpack[Sides]) -> list[str]:
    """The `name@version` of what `list_experts` lists, or of those whose domain this embedder made.

    Raises NotFoundError for an unknown seed.
    """
    with registry.session(read_only=True) as session:
        query = select(Expert.name, Expert.version).where(*_wanted(session, sides))
        if embedder is not None:
            query = query.join(Expert.embedding).where(made_by(embedder))
        rows = session.execute(query.order_by(Expert.name_key, Expert.version))
        return [f"{name}@{version}" for name, version in rows]


def list_licenses(registry: Registry) -> list[str]:
    """The licences that experts which are not withdrawn have, in their order."""
    query = select(Expert.license).where(Expert.withdrawn.is_(None)).distinct().order_by(Expert.license)
    with registry.session(read_only=True) as session:
        return list(session.scalars(query))


def list_versions(registry: Registry, name: str) -> list[ExpertRecord]:
    """Every version of one expert, withdrawn ones too, by version; none for an unknown name."""
    query = select(Expert).where(Expert.name_key == name_key(name)).order_by(Expert.version)
    with registry.session(read_only=True) as session:
        return [expert_record(row) for row in session.scalars(query)]


def list_domains(registry: Registry, *, seed: str | None = None) -> list[Domain]:
    """The domain of the newest version of each expert, by name; a map of ten thousand needs no more of them.

    Raises NotFoundError for an unknown seed.
    """
    maker = (Embedding.embedder_name, Embedding.embedder_revision, Embedding.dimension, Embedding.pooling)
    with registry.session(read_only=True) as session:
        query = (
            select(Expert.name, Expert.version, Expert.description, Seed.name, Embedding.mean, *maker)
            .join(Expert.seed)
            .join(Expert.embedding)
            .where(*_wanted(session, {"seed": seed}))
            .order_by(Expert.name_key, Expert.version)
        )
        rows = {row[0]: row for row in session.execute(query)}  # a later version replaces the one before
    return [
        Domain(name, version, about, of, EmbedderId(*embedder), decode_vector(mean))
        for name, version, about, of, mean, embedder in ((*row[:5], row[5:]) for row in rows.values())
    ]


def experts_stamp(registry: Registry) -> tuple[int, int]:
    """Two numbers, one of which changes whenever an expert is published or withdrawn."""
    with registry.session(read_only=True) as session:
        newest, count = session.execute(select(func.max(Expert.id), func.count(Expert.withdrawn))).one()
        return newest or 0, count


def get_measurement(registry: Registry, ref: str) -> dict[str, Any] | None:
    """What an expert alone was last measured at, see `composer.evaluation.expert_measurement`. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        expert = find_expert(session, ref)
        newest = select(Measurement.result).where(Measurement.expert_id == expert.id)
        return session.scalar(newest.order_by(Measurement.id.desc()).limit(1))


def get_mix(registry: Registry, ref: str) -> MixRecord:
    """The mix that `name` (its newest version) or `name@version` means. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return mix_record(session, find_mix(session, ref))


def list_mixes(registry: Registry, *, expert: str | None = None) -> list[MixRecord]:
    """Every version of every mix, or of those that hold an expert (`name@version`), by name and version.

    Deleted ones are left out. Raises NotFoundError for an unknown expert.
    """
    query = select(Mix).where(Mix.deleted_at.is_(None)).order_by(Mix.name_key, Mix.version)
    with registry.session(read_only=True) as session:
        if expert is not None:
            query = query.where(Mix.members.any(MixExpert.expert_id == find_expert(session, expert).id))
        return [mix_record(session, row) for row in session.scalars(query).all()]


def search(
    registry: Registry, query: str | np.ndarray, *, limit: int = 10, **sides: Unpack[Sides]
) -> list[Hit]:
    """The experts nearest to a text, or to a vector [m] of the registry's embedder; best first.

    A score is the cosine of the query and the expert's best centroid. Experts of other embedders and
    withdrawn ones are left out. Raises InvalidInputError for an empty text or a limit below 1,
    InvalidEmbeddingError for a wrong vector, NotFoundError for an unknown seed.
    """
    from registry.domains.embedding import load_embedder
    from registry.domains.index import search as nearest

    if limit < 1:
        raise InvalidInputError(f"limit is {limit}, expected at least 1")
    with registry.session(read_only=True) as session:
        wanted = _wanted(session, sides)
    embedder = load_embedder(registry.embedder)
    vector = _query_vector(embedder, query)
    found = nearest(registry, vector, embedder.id, limit=limit, wanted=wanted)
    with registry.session(read_only=True) as session:
        rows = session.scalars(select(Expert).where(Expert.id.in_([expert_id for expert_id, _ in found])))
        experts = {row.id: expert_record(row) for row in rows}
    return [Hit(experts[expert_id], score) for expert_id, score in found]


def _wanted(session: Session, sides: Sides, include_withdrawn: bool = False) -> list[ColumnElement[bool]]:
    """What an expert's row must be. Raises NotFoundError for an unknown seed."""
    wanted: list[ColumnElement[bool]] = []
    if (seed := sides.get("seed")) is not None:
        wanted.append(Expert.seed_id == find_seed(session, seed).id)
    if (license := sides.get("license")) is not None:
        wanted.append(Expert.license == license)
    if (anchored := sides.get("anchored")) is not None:
        wanted.append(Expert.anchored.is_(anchored))
    if (parameters := sides.get("parameters")) is not None:
        least, below = parameters
        wanted.append(Expert.parameters >= least)
        if below is not None:
            wanted.append(Expert.parameters < below)
    if (measured := sides.get("measured")) is not None:
        in_a_mix = select(MixExpert.expert_id).join(Evaluation, Evaluation.mix_id == MixExpert.mix_id)
        those = Expert.id.in_(in_a_mix.union(select(Measurement.expert_id)))
        wanted.append(those if measured else not_(those))
    if not include_withdrawn:
        wanted.append(Expert.withdrawn.is_(None))
    return wanted


def _query_vector(embedder: Embedder, query: str | np.ndarray) -> np.ndarray:
    """The query as a unit vector [m], float32."""
    if isinstance(query, str):
        if not query.strip():
            raise InvalidInputError("the search text is empty: say what the expert should know")
        query = embedder.encode([query])[0]
    vector = np.asarray(query, dtype=np.float32)
    if vector.shape != (embedder.id.dimension,):
        raise InvalidEmbeddingError(
            f"the query vector has shape {vector.shape}, expected ({embedder.id.dimension},) of {embedder.id}"
        )
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise InvalidEmbeddingError(f"the query vector has length {norm}: it must be finite and not zero")
    return vector / np.float32(norm)
