"""Tokens of accounts: their form, their hash, and the account that a token belongs to.

A token is "nxm.<account id>.<secret>". The secret has 192 random bits, so no dictionary finds it from its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from sqlalchemy.orm import Session

from registry.access import ROLES, Actor
from registry.database.schema import Account
from registry.errors import AccessError

_SECRET_BYTES = 24
_TOKEN = re.compile(r"nxm\.([1-9][0-9]{0,8})\.([A-Za-z0-9_-]{32})")


def new_token(account_id: int) -> tuple[str, str]:
    """Return a new token of an account, and its salted hash."""
    secret, salt = secrets.token_urlsafe(_SECRET_BYTES), secrets.token_hex(16)
    return f"nxm.{account_id}.{secret}", f"{salt}${_hash(secret, salt)}"


def authenticate(session: Session, token: str) -> Actor:
    """Return the owner of a token. Raises AccessError, with one message for every reason."""
    match = _TOKEN.fullmatch(token.strip())
    row = None if match is None else session.get(Account, int(match[1]))
    if match is not None and row is not None:
        salt, _, expected = row.token_hash.partition("$")
        if hmac.compare_digest(_hash(match[2], salt), expected):
            return Actor(row.name, next(role for role in ROLES if role == row.role))
    raise AccessError(
        "the token is wrong or was renewed: a maintainer makes a new one with `nexusmix users token NAME`"
    )


def _hash(secret: str, salt: str) -> str:
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), n=2**12, r=8, p=1, dklen=32).hex()
