"""Start the web app and a worker as child processes, and stop them on exit; Streamlit is not imported here.

The app has no login. So it listens on this machine only, unless the user declares that everyone who can reach it is
trusted. Then it reads and writes only in the configured folders.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from registry.errors import ConflictError, InvalidInputError
from ui.queue.roots import Roots
from ui.queue.worker import start_local
from ui.web.frame.guard import ANY_ADDRESS, HOSTS_VARIABLE, LOCAL_HOSTS
from ui.web.theme import streamlit_flags

SERVER = "ui.web.frame.server"
FIRST_PORT = 8501
PORTS_TRIED = 50
STOP_SECONDS = 5.0
# A worker gives its run time to save its state before it stops, and kills a run that takes too long.
WORKER_STOP_SECONDS = 15.0


def is_local(address: str) -> bool:
    """Return whether only this machine can reach the address. Raises InvalidInputError if it does not resolve."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address or "0.0.0.0", None)}
    except (OSError, UnicodeError) as error:
        raise InvalidInputError(f"{address!a} is not an address of this machine: {error}") from error
    return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


def require_trust(address: str, hosts: Sequence[str], *, trusted: bool) -> bool:
    """Return whether others can reach the app.

    Others can reach an app that listens on a network, and one that a proxy serves under another name. Raises
    InvalidInputError if others can reach it and `trusted` is false.
    """
    others = not is_local(address) or bool(hosts)
    if others and not trusted:
        where = f"answers to {', '.join(hosts)}" if hosts else f"listens on {address}"
        raise InvalidInputError(
            f"an app that {where} is open to others and has no login: anyone who can reach it can contribute, "
            "delete and queue work as you. Add --trust-network if you trust all of them, or keep the app on "
            "localhost and use an SSH tunnel"
        )
    return others


def hosts_of(address: str, hosts: Sequence[str] = ()) -> list[str]:
    """Return the host names the app answers to: the local names, the address, and `hosts`."""
    names = [*LOCAL_HOSTS, address.lower(), *(host.lower() for host in hosts)]
    if not is_local(address):
        names += [ANY_ADDRESS, socket.gethostname().lower(), socket.getfqdn().lower()]
    return [name for name in dict.fromkeys(names) if name]


def choose_port(address: str, port: int | None) -> int:
    """Return the requested port, or the first free one from 8501. Raises ConflictError if none is free."""
    candidates = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in candidates:
        if _is_free(address, candidate):
            return candidate
    asked = f"port {port} is" if port is not None else f"ports {FIRST_PORT} to {candidates[-1]} are"
    raise ConflictError(
        f"{asked} taken on {address}: stop the other program, or choose another port with --port"
    )


def serve(
    home: Path,
    *,
    port: int,
    address: str = "localhost",
    hosts: Sequence[str] = (),
    roots: Roots | None = None,
    browser: bool = True,
    worker: bool = True,
) -> int:
    """Run the web app on the registry in `home` until it stops or Ctrl-C; return its exit code.

    It answers to its own names and `hosts`, and reads and writes below `roots` (default: nowhere).

    With `worker`, a local worker executes the queued runs and stops together with the app. A run that is not
    finished then returns to the queue.
    """
    # A plain `kill` of this process must also stop the server and the worker.
    previous = signal.signal(signal.SIGTERM, _leave)
    children: list[tuple[subprocess.Popen[bytes], float]] = []
    try:
        server = subprocess.Popen(
            command(port=port, address=address, browser=browser),
            env={
                **os.environ,
                "NEXUSMIX_HOME": str(home),
                HOSTS_VARIABLE: ",".join(hosts_of(address, hosts)),
                **(roots or Roots()).environment(),
            },
            stdout=sys.stderr,
        )
        children.append((server, STOP_SECONDS))
        if worker:
            children.append((start_local(home), WORKER_STOP_SECONDS))
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
        for child, _seconds in children:
            child.terminate()
        for child, seconds in children:
            _reap(child, seconds)


def command(*, port: int, address: str, browser: bool) -> list[str]:
    """Return the command line of the server."""
    return [
        *(sys.executable, "-P", "-m", SERVER),
        f"--server.port={port}",
        f"--server.address={address}",
        f"--server.headless={'false' if browser else 'true'}",
        *streamlit_flags(),
    ]


def _is_free(address: str, port: int) -> bool:
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((address, port), family=family):
            return True
    except OSError:
        return False


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _reap(child: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
