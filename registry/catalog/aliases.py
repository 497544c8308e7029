"""Aliases: `name@word` refers to one version of an expert and is moved by compare-and-swap."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select

from registry.access import record
from registry.database.engine import lock_writers
from registry.database.rows import find_expert, is_published
from registry.database.schema import Alias, Expert
from registry.errors import ConflictError, InvalidInputError
from registry.home import Registry
from registry.names import name_key, parse_alias

UNCHECKED: Final = ""


def point(registry: Registry, alias: str, target: str | None, *, expected: str | None = UNCHECKED) -> None:
    """Point an alias (`law@stable`) to a version of its expert (`law@3`); a `target` of None removes the alias.

    `expected` is the version that the caller last saw, or None if there was no alias. If the alias points
    elsewhere, nothing is changed and ConflictError is raised. Raises InvalidInputError if the version is
    withdrawn or belongs to another expert. Raises NotFoundError for an unknown version.
    """
    key, word = parse_alias(alias)
    with registry.session() as session:
        lock_writers(session)
        row = session.get(Alias, (key, word))
        found = None if row is None else _ref(row.expert)
        if expected != UNCHECKED and found != expected:
            raise ConflictError(
                f"{alias} points to {found or 'nothing'}, expected {expected or 'nothing'}: another user moved it; "
                "check its current version, then try again"
            )
        record(session, registry.actor, "move alias", alias, to=target)
        if target is None:
            if row is not None:
                session.delete(row)
            return
        expert = find_expert(session, target)
        if expert.name_key != key or not is_published(expert):
            own = "is withdrawn" if expert.withdrawn is not None else "is a draft"
            why = own if expert.name_key == key else "is another expert's"
            raise InvalidInputError(f"{alias} cannot point to {_ref(expert)}, which {why}")
        if row is None:
            session.add(Alias(name_key=key, alias=word, expert_id=expert.id))
        else:
            row.expert_id = expert.id


def list_aliases(registry: Registry, name: str) -> dict[str, str]:
    """Return an expert's aliases: each word with the `name@version` that it points to."""
    query = select(Alias).where(Alias.name_key == name_key(name)).order_by(Alias.alias)
    with registry.session(read_only=True) as session:
        return {row.alias: _ref(row.expert) for row in session.scalars(query)}


def _ref(expert: Expert) -> str:
    return f"{expert.name}@{expert.version}"
