"""The gate in front of the web app: every path of the server needs a login, except the login itself."""

from __future__ import annotations

import asyncio
from functools import cache
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from registry.accounts import actor_of_token
from registry.errors import RegistryError
from registry.home import Registry, open_registry
from ui.web.frame.guard import Application, Message, Receive, Send
from ui.web.login import COOKIE, LEAVE, PATH, SESSION_SECONDS, actor_of_cookie, holder, session_of

FORM_BYTES = 4096
FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Log in · nexusmix</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:24rem;margin:15vh auto;padding:0 1rem}}
input,button{{font:inherit;width:100%;padding:.6rem;box-sizing:border-box;margin:.4rem 0}}</style>
<h1>nexusmix</h1><form method="post" action="/login"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button></form><p role="alert">{message}</p>
<p>A maintainer makes tokens with <code>nexusmix users add NAME</code>.</p></html>"""


@cache
def registry() -> Registry:
    """Return the server's registry, opened once."""
    return open_registry()


class Gate:
    """ASGI middleware: every request needs the cookie of an account's login, except the login itself."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer the login's own paths, pass requests with a login on, and refuse others."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            await self._log_in(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == LEAVE:
            await _redirect(send, PATH, f"{COOKIE}=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax")
        elif await _has_account(_cookie(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _form(send, 200 if scope["path"] == PATH else 401, "")

    async def _log_in(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more and len(body) <= FORM_BYTES:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        given = parse_qs(body.decode("latin-1")).get("token", [""])[0] if len(body) <= FORM_BYTES else ""
        try:
            session = await asyncio.to_thread(
                lambda: session_of(registry(), actor_of_token(registry(), given).name)
            )
        except RegistryError:
            await _form(send, 401, "This token is wrong, or it was renewed.")
            return
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={session}; Max-Age={SESSION_SECONDS}; Path=/; HttpOnly; SameSite=Lax{secure}"
        await _redirect(send, "/", cookie)


async def _has_account(cookie: str | None) -> bool:
    """Return whether the cookie is a login of an account that was not removed since, with the token it has now."""
    if holder(cookie) is None:  # without a query: anybody can send one
        return False
    try:
        await asyncio.to_thread(lambda: actor_of_cookie(registry(), cookie))
    except RegistryError:
        return False
    return True


def _cookie(scope: Message) -> str | None:
    try:
        jar = SimpleCookie(next((v.decode("latin-1") for k, v in scope["headers"] if k == b"cookie"), ""))
    except CookieError:
        return None
    return jar[COOKIE].value if COOKIE in jar else None


async def _form(send: Send, status: int, message: str) -> None:
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": FORM.format(message=message).encode()})


async def _redirect(send: Send, path: str, cookie: str) -> None:
    headers = [
        (b"location", path.encode()),
        (b"set-cookie", cookie.encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
