"""Access control of the web app and of the API: only allowed Host headers, and no frames on pages of other sites."""

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

# Set by ui/web/launch.py for its server: host names separated by commas.
HOSTS_VARIABLE = "NEXUSMIX_HOSTS"
# Wildcard for any IP address. Another site's name can be made to resolve to this machine; an IP address cannot.
ANY_ADDRESS = "*"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
HEADERS = (
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"x-frame-options", b"SAMEORIGIN"),
)
REFUSAL = (
    b"This host name is not allowed. Open the address that `nexusmix ui` printed, "
    b"or start the app with --allow-host NAME.\n"
)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/?#\s]+))(?::\d{1,5})?", re.IGNORECASE)


def allowed_hosts() -> frozenset[str]:
    """Return the host names from the environment variable, or the local names if it is empty."""
    names = os.environ.get(HOSTS_VARIABLE, "").split(",")
    return frozenset(name.strip().lower() for name in names if name.strip()) or frozenset(LOCAL_HOSTS)


def is_allowed(host: str | None, allowed: frozenset[str]) -> bool:
    """Return whether a Host header, with or without a port, is one of the allowed names."""
    match = _HOST.fullmatch(host or "")
    if match is None:
        return False
    name = (match["v6"] or match["name"]).lower().rstrip(".")
    return name in allowed - {ANY_ADDRESS} or (ANY_ADDRESS in allowed and _is_address(name))


class Guard:
    """ASGI middleware: 403 for a Host header that is not allowed (HTTP and WebSocket); no frames on other sites."""

    def __init__(self, app: Application, hosts: frozenset[str], refusal: bytes = REFUSAL) -> None:
        self.app, self.hosts, self.refusal = app, hosts, refusal

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request to Streamlit, or refuse it first."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 or not is_allowed(given[0], self.hosts):
            await _refuse(scope, send, self.refusal)
            return

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, framed)


async def _refuse(scope: Message, send: Send, refusal: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # not accepted yet, so the server answers 403
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": refusal})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
