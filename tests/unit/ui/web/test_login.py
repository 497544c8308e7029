"""The login of the web app as ASGI middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from registry.accounts import add_account, remove_account, renew_token
from registry.errors import AccessError
from registry.home import Registry
from ui.web import login
from ui.web.frame import gate
from ui.web.frame.guard import Message


async def _app(scope: Message, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the app"})


def ask(
    path: str = "/", *, method: str = "GET", body: bytes = b"", cookie: str = "", kind: str = "http"
) -> Any:
    """Send a request through the middleware; return the first message of its answer."""
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"cookie", cookie.encode("latin-1"))] if cookie else []
    scope: Message = {"type": kind, "path": path, "method": method, "headers": headers, "scheme": "https"}
    asyncio.run(gate.Gate(_app)(scope, receive, send))
    return sent[0]


def header(message: Any, name: bytes) -> str:
    return dict(message["headers"])[name].decode()


@pytest.fixture
def token(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> str:
    """The token of the account alice in the registry of the server."""
    monkeypatch.setattr(gate, "registry", lambda: registry)
    return add_account(registry, "alice", "reader").token


@pytest.mark.parametrize(
    "path", ["/", "/catalog", "/_stcore/health", "/static/x.js", "/media/1", "//evil.example"]
)
def test_nothing_is_served_without_a_login(token: str, path: str) -> None:
    for cookie in (
        "",
        f"{login.COOKIE}=",
        f"{login.COOKIE}=616c696365.9999999999.00",
        f"{login.COOKIE}=é",
        "a b;;=",
    ):
        assert ask(path, cookie=cookie)["status"] == 401
    assert ask("/_stcore/stream", kind="websocket") == {"type": "websocket.close", "code": 1008}


def test_a_token_gives_a_cookie_that_opens_the_app_until_it_expires(token: str) -> None:
    answer = ask("/login", method="POST", body=f"token={token}".encode())
    assert (answer["status"], header(answer, b"location")) == (303, "/")
    cookie = header(answer, b"set-cookie")
    assert {"HttpOnly", "SameSite=Lax", "Secure"} <= {part.strip() for part in cookie.split(";")}
    assert ask(cookie=cookie.split(";")[0])["status"] == 200
    assert ask("/_stcore/stream", kind="websocket", cookie=cookie.split(";")[0])["status"] == 200
    assert "Max-Age=0" in header(ask("/logout", cookie=cookie.split(";")[0]), b"set-cookie")
    assert login.holder(login.issue("alice", now=0.0)) is None
    assert login.holder(login.issue("alice")[:-1] + "0") in (None, "alice")


@pytest.mark.parametrize("body", [b"", b"token=", b"token=nxm.1.x", b"token=%00", b"token=" + b"x" * 10_000])
def test_a_wrong_token_gives_the_form_again(token: str, body: bytes) -> None:
    answer = ask("/login", method="POST", body=body)
    assert answer["status"] == 401 and b"set-cookie" not in dict(answer["headers"])


def test_a_removed_account_is_out_although_its_cookie_is_valid(token: str, registry: Registry) -> None:
    cookie = login.session_of(registry, "alice")
    assert login.actor_of_cookie(registry, cookie).role == "reader"
    remove_account(registry, "alice")
    with pytest.raises(AccessError):
        login.actor_of_cookie(registry, cookie)
    with pytest.raises(AccessError):
        login.actor_of_cookie(registry, None)
    with pytest.raises(AccessError):
        login.actor_of_claims(registry, {})


@pytest.mark.parametrize("change", [remove_account, renew_token])
def test_no_path_is_served_to_the_login_of_a_removed_account_or_an_old_token(
    token: str, registry: Registry, change: Callable[[Registry, str], object]
) -> None:
    cookie = f"{login.COOKIE}={login.session_of(registry, 'alice')}"
    assert ask("/media/1", cookie=cookie)["status"] == 200
    change(registry, "alice")
    for path in ("/", "/static/x.js", "/media/1"):
        assert ask(path, cookie=cookie)["status"] == 401
    assert ask("/_stcore/stream", kind="websocket", cookie=cookie)["type"] == "websocket.close"


def test_a_renewed_token_ends_the_logins_of_the_old_one(token: str, registry: Registry) -> None:
    cookie = login.session_of(registry, "alice")
    renew_token(registry, "alice")
    with pytest.raises(AccessError, match="renewed"):
        login.actor_of_cookie(registry, cookie)
    assert login.actor_of_cookie(registry, login.session_of(registry, "alice")).name == "alice"
    remove_account(registry, "alice")
    add_account(registry, "alice", "maintainer")  # another person
    with pytest.raises(AccessError):
        login.actor_of_cookie(registry, cookie)


def test_an_identity_provider_must_confirm_the_address_of_an_account(registry: Registry) -> None:
    add_account(registry, "bob", "contributor", email="bob@example.org")
    assert login.actor_of_claims(registry, {"email": "Bob@example.org"}).name == "bob"
    for claims in (
        {"email": "bob@example.org", "email_verified": False},
        {"email": "eve@example.org"},
        {"email": 1},
    ):
        with pytest.raises(AccessError):
            login.actor_of_claims(registry, claims)
