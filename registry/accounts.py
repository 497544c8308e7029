"""Accounts: users of a shared registry, each with a role and a token, of which only a hash is stored."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.access import LOCAL, ROLES, Actor, Role, record
from registry.database.engine import lock_writers
from registry.database.schema import Account, Favourite
from registry.errors import AccessError, ConflictError, InvalidInputError, NotFoundError
from registry.home import Registry
from registry.names import check_new_name, name_key
from registry.records import AccountRecord
from registry.tokens import authenticate, new_token


class NewAccount(NamedTuple):
    """An account and its token, which cannot be read again."""

    account: AccountRecord
    token: str


def add_account(registry: Registry, name: str, role: Role, *, email: str | None = None) -> NewAccount:
    """Add an account and return its token. `email` identifies the user at an OpenID Connect provider.

    Raises InvalidInputError, AccessError, and ConflictError if the name or the address is taken.
    """
    stored = check_new_name(name)
    with registry.session() as session:
        lock_writers(session)
        if session.scalar(select(Account).where(Account.name_key == name_key(stored))) is not None:
            raise ConflictError(f"an account '{stored}' already exists: choose another name")
        address = _checked_email(session, email)
        row = Account(
            name=stored, name_key=name_key(stored), role=_checked_role(role), email=address, token_hash=""
        )
        session.add(row)
        session.flush()  # gives the id
        token, row.token_hash = new_token(row.id)
        record(session, registry.actor, "add user", stored, role=role)
        return NewAccount(_record_of(row), token)


def list_accounts(registry: Registry) -> list[AccountRecord]:
    """Return every account, sorted by name."""
    with registry.session(read_only=True) as session:
        return [_record_of(row) for row in session.scalars(select(Account).order_by(Account.name_key))]


def has_accounts(registry: Registry) -> bool:
    """Return whether the registry has an account."""
    with registry.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(Account)) != 0


def set_role(registry: Registry, name: str, role: Role) -> AccountRecord:
    """Give an account another role. Raises NotFoundError, InvalidInputError, AccessError."""
    with registry.session() as session:
        lock_writers(session)
        row = _find(session, name)
        row.role = _checked_role(role)
        record(session, registry.actor, "change user", row.name, role=role)
        return _record_of(row)


def renew_token(registry: Registry, name: str) -> NewAccount:
    """Replace an account's token; the old one stops working at once. Raises NotFoundError, AccessError."""
    with registry.session() as session:
        lock_writers(session)
        row = _find(session, name)
        token, row.token_hash = new_token(row.id)
        record(session, registry.actor, "change user", row.name, token="renewed")
        return NewAccount(_record_of(row), token)


def remove_account(registry: Registry, name: str) -> None:
    """Remove an account and its favourites; the log keeps its name. Raises NotFoundError, AccessError."""
    with registry.session() as session:
        lock_writers(session)
        row = _find(session, name)
        record(session, registry.actor, "remove user", row.name)
        session.execute(delete(Favourite).where(Favourite.actor == row.name))
        session.delete(row)


def actor_of_token(registry: Registry, token: str) -> Actor:
    """Return the owner of a token. Raises AccessError."""
    with registry.session(read_only=True) as session:
        return authenticate(session, token)


def actor_of_email(registry: Registry, email: str) -> Actor:
    """Return the account with this address, which an OpenID Connect provider has verified. Raises AccessError."""
    with registry.session(read_only=True) as session:
        row = session.scalar(select(Account).where(Account.email == email.strip().lower()))
        if row is None:
            raise AccessError(f"{email!a} has no account in this registry: ask a maintainer to add it")
        return Actor(row.name, _checked_role(row.role))


def actor_named(registry: Registry, name: str) -> Actor:
    """Return the actor of a name in the log, with the role it has now. Raises AccessError for a removed account."""
    if name.startswith(LOCAL):
        return Actor(name, "maintainer")
    with registry.session(read_only=True) as session:
        row = session.scalar(select(Account).where(Account.name == name))
        if row is None:
            raise AccessError(f"the account '{name}' was removed, so its work is not done")
        return Actor(row.name, _checked_role(row.role))


def token_mark(registry: Registry, name: str) -> str:
    """Return a value that changes with an account's token and does not reveal it. Raises AccessError.

    A login stores it, so a renewed token ends the logins of the old one.
    """
    with registry.session(read_only=True) as session:
        found = session.scalar(select(Account.token_hash).where(Account.name == name))
    if found is None:
        raise AccessError(f"the account '{name}' was removed")
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def _find(session: Session, name: str) -> Account:
    row = session.scalar(select(Account).where(Account.name_key == name_key(name)))
    if row is None:
        raise NotFoundError(f"no account {name!a}: see `nexusmix users list`")
    return row


def _checked_role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise InvalidInputError(f"no role {role!a}: expected one of {', '.join(ROLES)}")


def _checked_email(session: Session, email: str | None) -> str | None:
    if email is None:
        return None
    address = email.strip().lower()
    if not address.isprintable() or address.count("@") != 1 or not 3 <= len(address) <= 254:
        raise InvalidInputError(f"{email[:100]!a} is not an e-mail address")
    if session.scalar(select(Account).where(Account.email == address)) is not None:
        raise ConflictError(f"{address} belongs to another account")
    return address


def _record_of(row: Account) -> AccountRecord:
    return AccountRecord(row.name, _checked_role(row.role), row.email, row.created_at)
