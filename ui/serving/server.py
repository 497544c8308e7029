"""The API's server process: the socket, the protections of an open server, and the graceful end."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Any

from registry.errors import ConflictError, InvalidInputError
from ui.web.frame.guard import Guard
from ui.web.launch import hosts_of, is_local

if TYPE_CHECKING:
    import uvicorn

    from ui.serving.app import Api

KEY_VARIABLE = "NEXUSMIX_API_KEY"
STOP_SECONDS = 10  # time of running replies to end after Ctrl-C
MOST_CONNECTIONS = 256
REFUSAL = (
    b"This host name is not allowed: use the address that `nexusmix serve` printed, or set an API key.\n"
)


def check_key(address: str, key: str | None) -> None:
    """Require a usable key for an address that others can reach. Raises InvalidInputError."""
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise InvalidInputError(
            "the API key is empty or not sendable: expected ASCII letters, digits and signs"
        )
    if key is None and not is_local(address):
        raise InvalidInputError(
            f"a server that listens on {address} is open to others: set an API key in the environment variable "
            f"{KEY_VARIABLE}, or keep it on localhost and use an SSH tunnel"
        )


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
    if api.key is None:
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
