"""Who may talk to the web app: requests by its own names only, and no page of another site around it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# Set by ui/web/launch.py for its server: names separated by commas.
HOSTS_VARIABLE = "NEXUSMIX_HOSTS"
# Among the names: any address in figures. Another site's name can be made to point here, its figures cannot.
ANY_ADDRESS = "*"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
HEADERS = (
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"x-frame-options", b"SAMEORIGIN"),
)
REFUSAL = (
    b"This is not one of the names of this web app. Open it by the address that `nexusmix ui` printed, "
    b"or start it with --allow-host NAME.\n"
)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/?#\s]+))(?::\d{1,5})?", re.IGNORECASE)


def allowed_hosts() -> frozenset[str]:
    """The names that the environment gives, or those of this machine for itself."""
    names = os.environ.get(HOSTS_VARIABLE, "").split(",")
    return frozenset(name.strip().lower() for name in names if name.strip()) or frozenset(LOCAL_HOSTS)


def is_allowed(host: str | None, allowed: frozenset[str]) -> bool:
    """Whether a Host header names this app, with or without a port."""
    match = _HOST.fullmatch(host or "")
    if match is None:
        return False
    name = (match["v6"] or match["name"]).lower().rstrip(".")
    return name in allowed - {ANY_ADDRESS} or (ANY_ADDRESS in allowed and _is_address(name))


class Guard:
    """ASGI middleware: 403 for a foreign Host header, on HTTP and on the WebSocket; no foreign frames."""

    def __init__(self, app: Application, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer the request, or refuse it before Streamlit sees it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 or not is_allowed(given[0], self.hosts):
            await _refuse(scope, send)
            return

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, framed)


async def _refuse(scope: Message, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the server answers 403
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": REFUSAL})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
