"""Filters for lists and searches of experts, as SQL conditions."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from sqlalchemy import ColumnElement, not_, select
from sqlalchemy.orm import Session

from registry.database.rows import find_seed_id
from registry.database.schema import Evaluation, Expert, ExpertLabel, Favourite, Measurement, MixExpert


class Sides(TypedDict, total=False):
    """Filters for experts; a filter that is absent or None matches every expert.

    `parameters` is a range that includes its first number and excludes its second; None means no upper limit.
    `created` is a range of times likewise; None means no limit. `measured` selects experts that were measured alone
    or in a mix that contains them, `starred_by` those that the actor of this name starred.
    """

    seed: str | None
    license: str | None
    anchored: bool | None
    parameters: tuple[int, int | None] | None
    tag: str | None
    author: str | None
    created: tuple[datetime | None, datetime | None] | None
    measured: bool | None
    starred_by: str | None


def wanted_by(session: Session, sides: Sides, include_withdrawn: bool = False) -> list[ColumnElement[bool]]:
    """Return the SQL conditions of the filters; `include_withdrawn` includes drafts too.

    Raises NotFoundError for an unknown seed.
    """
    wanted: list[ColumnElement[bool]] = []
    if (seed := sides.get("seed")) is not None:
        wanted.append(Expert.seed_id == find_seed_id(session, seed))
    if (license := sides.get("license")) is not None:
        wanted.append(Expert.license == license)
    if (anchored := sides.get("anchored")) is not None:
        wanted.append(Expert.anchored.is_(anchored))
    if (parameters := sides.get("parameters")) is not None:
        least, below = parameters
        wanted.append(Expert.parameters >= least)
        if below is not None:
            wanted.append(Expert.parameters < below)
    for kind, value in (("tag", sides.get("tag")), ("author", sides.get("author"))):
        if value is not None:
            labelled = select(ExpertLabel.expert_id).where(
                ExpertLabel.kind == kind,
                ExpertLabel.value == (value.strip().lower() if kind == "tag" else value.strip()),
            )
            wanted.append(Expert.id.in_(labelled))
    if (created := sides.get("created")) is not None:
        since, before = created
        if since is not None:
            wanted.append(Expert.created_at >= since)
        if before is not None:
            wanted.append(Expert.created_at < before)
    if (measured := sides.get("measured")) is not None:
        in_a_mix = select(MixExpert.expert_id).join(Evaluation, Evaluation.mix_id == MixExpert.mix_id)
        those = Expert.id.in_(in_a_mix.union(select(Measurement.expert_id)))
        wanted.append(those if measured else not_(those))
    if (actor := sides.get("starred_by")) is not None:
        mine = select(Favourite.name_key).where(Favourite.actor == actor, Favourite.kind == "expert")
        wanted.append(Expert.name_key.in_(mine))
    if not include_withdrawn:
        wanted += [Expert.withdrawn.is_(None), Expert.draft.is_(False)]
    return wanted
