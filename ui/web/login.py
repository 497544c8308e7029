"""Login of the web app's visitors: a signed cookie, and the account that a visitor has.

The login is off for an app that only its own user can reach. It takes a token (frame/gate.py). With OpenID Connect
configured for Streamlit, Streamlit's own login replaces this, and the verified address gives the account.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping
from typing import Any

from registry.access import Actor
from registry.accounts import actor_named, actor_of_email, token_mark
from registry.errors import AccessError
from registry.home import Registry

# Set by ui/web/launch.py for its server: "token" or "oidc". Absent: no login.
LOGIN_VARIABLE = "NEXUSMIX_LOGIN"
COOKIE = "nexusmix_session"
PATH, LEAVE = "/login", "/logout"
SESSION_SECONDS = 12 * 3600
# A new server ends all sessions.
_KEY = secrets.token_bytes(32)


def required() -> str | None:
    """Return how visitors log in: "token", "oidc", or None."""
    return os.environ.get(LOGIN_VARIABLE) or None


def issue(name: str, now: float | None = None) -> str:
    """Return a value that proves that this server issued it for `name`, until it expires."""
    body = f"{name.encode().hex()}.{int((time.time() if now is None else now) + SESSION_SECONDS)}"
    return f"{body}.{_signature(body)}"


def session_of(opened: Registry, name: str) -> str:
    """Return the value of a cookie for a visitor; it is valid until it expires or the account's token is renewed."""
    return issue(f"{name}\n{token_mark(opened, name)}")


def holder(cookie: str | None) -> str | None:
    """Return what a valid cookie that has not expired was issued for; otherwise None."""
    body, _, signature = (cookie or "").rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(body).encode()):
        return None
    name, _, expires = body.partition(".")
    return bytes.fromhex(name).decode() if time.time() < int(expires) else None


def link_to(path: str) -> str:
    """Return a link to a path outside Streamlit's pages, which Streamlit's login does not protect.

    With that login, the link has a key that opens this path alone, for as long as a session.
    """
    return f"{path}?key={issue(path)}" if required() == "oidc" else path


def opens(key: str | None, path: str) -> bool:
    """Return whether a request may have this path: with Streamlit's login, it needs the key of `link_to`."""
    return required() != "oidc" or holder(key) == path


def actor_of_cookie(opened: Registry, cookie: str | None) -> Actor:
    """Return the visitor with the role that the account has now. Raises AccessError without a valid login."""
    name, _, mark = (holder(cookie) or "").partition("\n")
    if not name or not hmac.compare_digest(mark, token_mark(opened, name)):
        raise AccessError("the login has expired, or the token was renewed: log out, then log in again")
    return actor_named(opened, name)


def actor_of_claims(opened: Registry, claims: Mapping[str, Any]) -> Actor:
    """Return the account of the address in an identity token that Streamlit's login has checked. Raises AccessError."""
    email = claims.get("email")
    if not isinstance(email, str) or claims.get("email_verified") is False:
        raise AccessError(
            "your identity provider did not confirm an e-mail address: ask a maintainer for a token"
        )
    return actor_of_email(opened, email)


def _signature(body: str) -> str:
    return hmac.new(_KEY, body.encode(), hashlib.sha256).hexdigest()
