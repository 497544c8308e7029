"""The API's server process: the socket, the protections of an open server, and the graceful end."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from registry.accounts import actor_of_token
from registry.errors import AccessError, ConflictError, InvalidInputError
from registry.home import Registry
from ui.web.frame.guard import Guard
from ui.web.launch import hosts_of, is_local

if TYPE_CHECKING:
    import uvicorn

    from ui.serving.app import Api

KEY_VARIABLE = "NEXUSMIX_API_KEY"
STOP_SECONDS = 10  # time of running replies to end after Ctrl-C
MOST_CONNECTIONS = 256
TOKEN_SECONDS = 60.0  # a removed account is refused after this time
REFUSAL = (
    b"This host name is not allowed: use the address that `nexusmix serve` printed, or set an API key.\n"
)


def check_key(address: str, key: str | None, *, has_accounts: bool = False) -> None:
    """Require a usable key, or accounts, for an address that others can reach. Raises InvalidInputError."""
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise InvalidInputError(
            "the API key is empty or not sendable: expected ASCII letters, digits and signs"
        )
    if key is None and not has_accounts and not is_local(address):
        raise InvalidInputError(
            f"a server that listens on {address} is open to others: set an API key in the environment variable "
            f"{KEY_VARIABLE}, add accounts with `nexusmix users add NAME`, or keep it on localhost and use an SSH "
            "tunnel"
        )


def token_check(registry: Registry) -> Callable[[str], bool]:
    """Return a function that accepts tokens of the registry's accounts. An answer is kept for TOKEN_SECONDS."""
    known: dict[str, float] = {}

    def admits(token: str) -> bool:
        key = hashlib.sha256(token.encode()).hexdigest()
        if known.get(key, 0.0) > time.monotonic():
            return True
        try:
            actor_of_token(registry, token)
        except AccessError:
            return False
        known[key] = time.monotonic() + TOKEN_SECONDS
        return True

    return admits


def bound_socket(address: str, port: int) -> socket.socket:
    """Return a socket bound to the address, which does not listen yet; port 0 is any free one.

    Raises ConflictError if it is taken.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        raise ConflictError(
            f"cannot listen on {address}, port {port}: {error.strerror or error}; stop the other program, or choose "
            "another port with --port"
        ) from error
    return bound


def url_of(address: str, bound: socket.socket) -> str:
    """Return the base URL that clients use."""
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(address, address)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{bound.getsockname()[1]}/v1"


def server_of(api: Api, address: str) -> uvicorn.Server:
    """Return the server of an API, protected for this address."""
    import uvicorn

    app: Any = api.app()
    if api.key is None and api.admits is None:
        # A page of another site can point its own name to this machine: without a key, names are checked.
        app = Guard(app, frozenset(hosts_of(address)), REFUSAL)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
    )
    return uvicorn.Server(config)


def serve(api: Api, bound: socket.socket, address: str) -> None:
    """Answer requests until SIGINT or SIGTERM. Running replies then have a few seconds to end."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server_of(api, address).run(sockets=[bound])
    except KeyboardInterrupt:  # uvicorn raises the signal again after its graceful end
        return
    finally:
        signal.signal(signal.SIGTERM, previous)
