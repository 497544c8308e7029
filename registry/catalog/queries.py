"""The catalog: find, list and search seeds, experts and mixes, and the functions that publish and withdraw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from sqlalchemy import func, select

from registry.catalog.filters import Sides, wanted_by
from registry.catalog.pages import Order, page_experts, sorting
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
    expert_records,
    find_expert,
    find_mix,
    find_seed,
    made_by,
    mix_record,
    seed_record,
)
from registry.database.schema import (
    Embedding,
    Expert,
    Measurement,
    Mix,
    MixExpert,
    Seed,
)
from registry.errors import InvalidEmbeddingError, InvalidInputError, NotFoundError
from registry.home import Registry
from registry.names import is_alias, name_key, parse_ref
from registry.records import Domain, EmbedderId, ExpertRecord, Hit, MixRecord, SeedRecord

if TYPE_CHECKING:
    from registry.domains.embedding import Embedder

MAX_QUERY_CHARS = 2_000  # an embedder reads a few hundred words of a request

__all__ = [
    "Order",
    "Problem",
    "Sides",
    "count_experts",
    "experts_stamp",
    "get_expert",
    "get_measurement",
    "get_member",
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
    "page_experts",
    "publish_expert",
    "publish_mix",
    "publish_seed",
    "record_evaluation",
    "record_measurement",
    "search",
    "verify",
    "withdraw",
]


def get_seed(registry: Registry, name: str) -> SeedRecord:
    """Return the seed with this name. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return seed_record(find_seed(session, name))


def list_seeds(registry: Registry) -> list[SeedRecord]:
    """Return every seed, sorted by name."""
    with registry.session(read_only=True) as session:
        return [seed_record(row) for row in session.scalars(select(Seed).order_by(Seed.name_key))]


def get_expert(registry: Registry, ref: str) -> ExpertRecord:
    """Return the expert for `name` (its newest published version), `name@version` or `name@alias`.

    A draft or a withdrawn version is returned only if the reference names its number. Raises NotFoundError.
    """
    with registry.session(read_only=True) as session:
        return expert_record(find_expert(session, ref))


def get_parts(registry: Registry, seed: str, experts: Sequence[str]) -> tuple[SeedRecord, list[ExpertRecord]]:
    """Return a seed and experts as `get_seed` and `get_expert` do, read in one session. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        found = seed_record(find_seed(session, seed))
        return found, [expert_record(find_expert(session, ref)) for ref in experts]


def list_experts(
    registry: Registry,
    *,
    include_withdrawn: bool = False,
    limit: int | None = None,
    offset: int = 0,
    order: Order = "name",
    **sides: Unpack[Sides],
) -> list[ExpertRecord]:
    """Return every version of every expert that passes the filters, by default sorted by name and version.

    `order` is as in `page_experts`. `limit` and `offset` select one page.

    Raises NotFoundError for an unknown seed.
    """
    with registry.session(read_only=True) as session:
        wanted = wanted_by(session, sides, include_withdrawn)
        query = select(Expert.id).where(*wanted).order_by(*sorting(order)).limit(limit).offset(offset)
        return expert_records(session, session.scalars(query).all())


def count_experts(
    registry: Registry, *, include_withdrawn: bool = False, at_most: int | None = None, **sides: Unpack[Sides]
) -> int:
    """Return the number of experts that `list_experts` returns without a limit.

    `at_most` ends the count there: an exact count of a million rows takes longer than a page of them.

    Raises NotFoundError for an unknown seed.
    """
    with registry.session(read_only=True) as session:
        wanted = wanted_by(session, sides, include_withdrawn)
        if at_most is None:
            return session.scalar(select(func.count()).select_from(Expert).where(*wanted)) or 0
        some = select(Expert.id).where(*wanted).limit(at_most).subquery()
        return session.scalar(select(func.count()).select_from(some)) or 0


def list_refs(registry: Registry, *, embedder: EmbedderId | None = None, **sides: Unpack[Sides]) -> list[str]:
    """Return the `name@version` of each expert that `list_experts` returns.

    With `embedder`, only experts whose domain embedding was computed by this embedder are returned.

    Raises NotFoundError for an unknown seed.
    """
    with registry.session(read_only=True) as session:
        query = select(Expert.name, Expert.version).where(*wanted_by(session, sides))
        if embedder is not None:
            query = query.join(Expert.embedding).where(made_by(embedder))
        rows = session.execute(query.order_by(Expert.name_key, Expert.version))
        return [f"{name}@{version}" for name, version in rows]


def list_licenses(registry: Registry) -> list[str]:
    """Return the distinct licences of experts that are not withdrawn, sorted."""
    query = (
        select(Expert.license)
        .where(Expert.withdrawn.is_(None), Expert.draft.is_(False))
        .distinct()
        .order_by(Expert.license)
    )
    with registry.session(read_only=True) as session:
        return list(session.scalars(query))


def list_versions(registry: Registry, name: str) -> list[ExpertRecord]:
    """Return every version of one expert, including withdrawn ones; empty for an unknown name."""
    query = select(Expert.id).where(Expert.name_key == name_key(name)).order_by(Expert.version)
    with registry.session(read_only=True) as session:
        return expert_records(session, session.scalars(query).all())


def list_domains(registry: Registry, *, seed: str | None = None) -> list[Domain]:
    """Return the domain of each expert's newest version that is not withdrawn, sorted by name.

    It reads only the columns that a map of ten thousand experts needs.
    Raises NotFoundError for an unknown seed.
    """
    maker = (Embedding.embedder_name, Embedding.embedder_revision, Embedding.dimension, Embedding.pooling)
    with registry.session(read_only=True) as session:
        query = (
            select(Expert.name, Expert.version, Expert.description, Seed.name, Embedding.mean, *maker)
            .join(Expert.seed)
            .join(Expert.embedding)
            .where(*wanted_by(session, {"seed": seed}))
            .order_by(Expert.name_key, Expert.version)
        )
        rows = {row[0]: row for row in session.execute(query)}  # a later version replaces an earlier one
    return [
        Domain(name, version, about, of, EmbedderId(*embedder), decode_vector(mean))
        for name, version, about, of, mean, embedder in ((*row[:5], row[5:]) for row in rows.values())
    ]


def experts_stamp(registry: Registry) -> tuple[int, int, int]:
    """Return the newest expert's id and the numbers of withdrawn experts and of drafts.

    One of them changes whenever an expert is published or withdrawn.
    """
    with registry.session(read_only=True) as session:
        newest, count = session.execute(select(func.max(Expert.id), func.count(Expert.withdrawn))).one()
        drafts = session.scalar(select(func.count()).select_from(Expert).where(Expert.draft.is_(True)))
        return newest or 0, count, drafts or 0


def get_measurement(registry: Registry, ref: str) -> dict[str, Any] | None:
    """Return an expert's newest measurement, see `composer.evaluation.expert_measurement`; None without one.

    Raises NotFoundError.
    """
    with registry.session(read_only=True) as session:
        expert = find_expert(session, ref)
        newest = select(Measurement.result).where(Measurement.expert_id == expert.id)
        return session.scalar(newest.order_by(Measurement.id.desc()).limit(1))


def get_mix(registry: Registry, ref: str) -> MixRecord:
    """Return the mix for `name` (its newest version) or `name@version`. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return mix_record(session, find_mix(session, ref))


def get_member(registry: Registry, mix: str, expert: str) -> str:
    """Return the `name@version` of the mix's expert that a name, version or alias refers to, also if it is withdrawn.

    Raises NotFoundError if there is no such mix, or if it contains none or several versions of that name.
    """
    with registry.session(read_only=True) as session:
        row = find_mix(session, mix)
        rows = [member.expert for member in row.members]
        if is_alias(expert):
            found = [find_expert(session, expert)]
        else:
            ref = parse_ref(expert)
            found = [
                each for each in rows if each.name_key == ref.key and ref.version in (None, each.version)
            ]
        refs = [f"{each.name}@{each.version}" for each in rows]
        matches = [text for text in (f"{each.name}@{each.version}" for each in found) if text in refs]
    if len(matches) != 1:
        wrong = "names several experts" if matches else "is not an expert"
        raise NotFoundError(
            f"{expert} {wrong} of {row.name}@{row.version}; its experts are {', '.join(refs)}"
        )
    return matches[0]


def list_mixes(registry: Registry, *, expert: str | None = None) -> list[MixRecord]:
    """Return every version of every mix, sorted by name and version; deleted mixes are excluded.

    With `expert` (`name@version`), only mixes that contain it are returned. Raises NotFoundError for an unknown
    expert.
    """
    query = select(Mix).where(Mix.deleted_at.is_(None)).order_by(Mix.name_key, Mix.version)
    with registry.session(read_only=True) as session:
        if expert is not None:
            query = query.where(Mix.members.any(MixExpert.expert_id == find_expert(session, expert).id))
        return [mix_record(session, row) for row in session.scalars(query).all()]


def search(
    registry: Registry, query: str | np.ndarray, *, limit: int = 10, passages: int = 3, **sides: Unpack[Sides]
) -> list[Hit]:
    """Return the experts nearest to a text, or to a vector [m] of the registry's embedder; best first.

    The first `passages` hits have their nearest passage, unless the expert's text is private. Withdrawn experts, and
    experts embedded by another embedder, are excluded. Raises InvalidInputError for an empty text or a limit below 1,
    InvalidEmbeddingError for a wrong vector, NotFoundError for an unknown seed.
    """
    from registry.domains.embedding import load_embedder
    from registry.domains.search import search as nearest

    if limit < 1:
        raise InvalidInputError(f"limit is {limit}, expected at least 1")
    with registry.session(read_only=True) as session:
        wanted = wanted_by(session, sides)
    embedder = load_embedder(registry.embedder)
    vector = _query_vector(embedder, query)
    found = nearest(registry, vector, embedder, limit=limit, wanted=wanted, passages=passages)
    with registry.session(read_only=True) as session:
        experts = expert_records(session, [each.expert_id for each in found])
    return [Hit(expert, each.score, each.passage) for expert, each in zip(experts, found, strict=True)]


def _query_vector(embedder: Embedder, query: str | np.ndarray) -> np.ndarray:
    """Return the query as a unit vector [m], float32."""
    from registry.domains.scores import request_vector

    if isinstance(query, str):
        if len(query) > MAX_QUERY_CHARS:
            raise InvalidInputError(
                f"the search text has {len(query):,} characters, expected at most {MAX_QUERY_CHARS:,}: describe the "
                "task in a few words, or search by a sample of text instead"
            )
        if not query.strip():
            raise InvalidInputError(
                "the search text is empty: describe the domain that the expert should know"
            )
        query = request_vector(embedder, query)
    vector = np.asarray(query, dtype=np.float32)
    if vector.shape != (embedder.id.dimension,):
        raise InvalidEmbeddingError(
            f"the query vector has shape {vector.shape}, expected ({embedder.id.dimension},) for {embedder.id}"
        )
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise InvalidEmbeddingError(f"the query vector has length {norm}: it must be finite and not zero")
    return vector / np.float32(norm)
