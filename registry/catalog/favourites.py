"""Favourites: the experts and mixes that a person starred, by name. They are personal, so no event is logged."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import delete, select

from registry.access import ANONYMOUS
from registry.database.engine import lock_writers
from registry.database.rows import find_expert, find_mix
from registry.database.schema import Favourite
from registry.errors import AccessError
from registry.home import Registry
from registry.names import name_key

Kind = Literal["expert", "mix"]


def star(registry: Registry, kind: Kind, ref: str) -> None:
    """Add an expert or a mix, with all its versions, to the actor's favourites.

    Raises NotFoundError, and AccessError for a visitor without an account.
    """
    registry.actor.require("star")
    if registry.actor == ANONYMOUS:
        raise AccessError("favourites belong to an account: set NEXUSMIX_TOKEN, or log in")
    with registry.session() as session:
        lock_writers(session)
        row = find_expert(session, ref) if kind == "expert" else find_mix(session, ref)
        key = {"actor": registry.actor.name, "kind": kind, "name_key": row.name_key}
        if session.get(Favourite, key) is None:
            session.add(Favourite(**key))


def unstar(registry: Registry, kind: Kind, name: str) -> None:
    """Remove a name from the actor's favourites; no effect if it is not one of them."""
    with registry.session() as session:
        lock_writers(session)
        mine = Favourite.actor == registry.actor.name
        session.execute(
            delete(Favourite).where(mine, Favourite.kind == kind, Favourite.name_key == name_key(name))
        )


def starred(registry: Registry, kind: Kind) -> frozenset[str]:
    """Return the actor's favourites as keys (`registry.names.name_key`)."""
    asked = select(Favourite.name_key).where(Favourite.actor == registry.actor.name, Favourite.kind == kind)
    with registry.session(read_only=True) as session:
        return frozenset(session.scalars(asked))
