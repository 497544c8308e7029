"""The catalog: find, list, search and withdraw what is published, and publish mixes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import func, select

from registry.errors import InvalidEmbeddingError, InvalidInputError
from registry.home import Registry
from registry.publish import publish_expert, publish_mix, publish_seed, record_evaluation, withdraw
from registry.records import ExpertRecord, Hit, MixRecord, SeedRecord
from registry.rows import expert_record, find_expert, find_mix, find_seed, mix_record, seed_record
from registry.schema import Expert, Mix, Seed
from registry.verification import Problem, verify

if TYPE_CHECKING:
    from registry.embedding import Embedder

__all__ = [
    "Problem",
    "get_expert",
    "get_mix",
    "get_seed",
    "list_experts",
    "list_mixes",
    "list_seeds",
    "publish_expert",
    "publish_mix",
    "publish_seed",
    "record_evaluation",
    "search",
    "verify",
    "withdraw",
]


def get_seed(registry: Registry, name: str) -> SeedRecord:
    """The seed of that name. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return seed_record(find_seed(session, name))


def list_seeds(registry: Registry) -> list[SeedRecord]:
    """Every seed, by name."""
    with registry.session(read_only=True) as session:
        return [seed_record(row) for row in session.scalars(select(Seed).order_by(Seed.name_key))]


def get_expert(registry: Registry, ref: str) -> ExpertRecord:
    """The expert that `name` (its newest version not withdrawn) or `name@version` means.

    Raises NotFoundError. A withdrawn version is found when it is asked for by its number.
    """
    with registry.session(read_only=True) as session:
        return expert_record(find_expert(session, ref))


def list_experts(
    registry: Registry, *, seed: str | None = None, include_withdrawn: bool = False
) -> list[ExpertRecord]:
    """Every version of every expert, by name and version. Raises NotFoundError for an unknown seed."""
    query = select(Expert).order_by(Expert.name_key, Expert.version)
    with registry.session(read_only=True) as session:
        if seed is not None:
            query = query.where(Expert.seed_id == find_seed(session, seed).id)
        if not include_withdrawn:
            query = query.where(Expert.withdrawn.is_(None))
        return [expert_record(row) for row in session.scalars(query)]


def get_mix(registry: Registry, ref: str) -> MixRecord:
    """The mix that `name` (its newest version) or `name@version` means. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return mix_record(session, find_mix(session, ref))


def list_mixes(registry: Registry) -> list[MixRecord]:
    """Every version of every mix, by name and version; deleted ones are left out."""
    query = select(Mix).where(Mix.deleted_at.is_(None)).order_by(Mix.name_key, Mix.version)
    with registry.session(read_only=True) as session:
        rows = session.scalars(query).all()
        return [mix_record(session, row) for row in rows]


def search(
    registry: Registry, query: str | np.ndarray, *, seed: str | None = None, limit: int = 10
) -> list[Hit]:
    """The experts nearest to a text, or to a vector [m] of the registry's embedder; best first.

    A score is the cosine of the query and the expert's best centroid. Experts of other embedders and
    withdrawn ones are left out. Raises InvalidInputError for an empty text or a limit below 1,
    InvalidEmbeddingError for a wrong vector, NotFoundError for an unknown seed.
    """
    from registry.embedding import load_embedder
    from registry.index import search as nearest

    if limit < 1:
        raise InvalidInputError(f"limit is {limit}, expected at least 1")
    seed_name = None if seed is None else get_seed(registry, seed).name
    embedder = load_embedder(registry.embedder)
    vector = _query_vector(embedder, query)
    with registry.session(read_only=True) as session:
        withdrawn = session.scalar(select(func.count()).where(Expert.withdrawn.is_not(None))) or 0
    # the index may still hold withdrawn experts: ask for so many more that `limit` remain without them
    found = nearest(registry, vector, embedder.id, limit=limit + withdrawn, seed=seed_name)
    with registry.session(read_only=True) as session:
        wanted = Expert.id.in_([expert_id for expert_id, _score in found])
        rows = session.scalars(select(Expert).where(wanted, Expert.withdrawn.is_(None)))
        experts = {row.id: expert_record(row) for row in rows}
    return [Hit(experts[expert_id], score) for expert_id, score in found if expert_id in experts][:limit]


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
