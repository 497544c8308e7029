"""Starts the web app and a worker as child processes and ends them with us; Streamlit is not imported here.

The app asks nobody who they are. So it listens to this machine alone, unless its user says that all who can reach it
are trusted; and then it reads and writes only in folders that were named.
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
# A worker lets its run write what it must before it goes; it kills a run that does not.
WORKER_STOP_SECONDS = 15.0


def is_local(address: str) -> bool:
    """Whether only this machine can reach what listens there. Raises InvalidInputError for no address at all."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address or "0.0.0.0", None)}
    except (OSError, UnicodeError) as error:
        raise InvalidInputError(f"{address!a} is no address of this machine: {error}") from error
    return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


def require_trust(address: str, hosts: Sequence[str], *, trusted: bool) -> bool:
    """Whether others may reach the app; refused unless the user says that they are trusted.

    Others reach what listens beyond this machine, and what a proxy passes on under another name. Raises
    InvalidInputError.
    """
    others = not is_local(address) or bool(hosts)
    if others and not trusted:
        where = f"answers to {', '.join(hosts)}" if hosts else f"listens on {address}"
        raise InvalidInputError(
            f"an app that {where} is open to others, and it has no login: whoever reaches it can contribute, delete "
            "and queue work as you. Add --trust-network if you trust them all, or leave it on localhost and use an "
            "SSH tunnel"
        )
    return others


def hosts_of(address: str, hosts: Sequence[str] = ()) -> list[str]:
    """The names by which the app may be asked for: this machine's for itself, the address, and further ones."""
    names = [*LOCAL_HOSTS, address.lower(), *(host.lower() for host in hosts)]
    if not is_local(address):
        names += [ANY_ADDRESS, socket.gethostname().lower(), socket.getfqdn().lower()]
    return [name for name in dict.fromkeys(names) if name]


def choose_port(address: str, port: int | None) -> int:
    """The port that was asked for, or the first free one from 8501. Raises ConflictError if it is taken."""
    candidates = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in candidates:
        if _is_free(address, candidate):
            return candidate
    asked = f"port {port} is" if port is not None else f"ports {FIRST_PORT} to {candidates[-1]} are"
    raise ConflictError(f"{asked} taken on {address}: end the other program, or choose another with --port")


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
    """Run the web app on the registry in `home` until it ends or Ctrl-C; returns its exit code.

    It answers to its own names and `hosts`, and reads and writes below `roots` (default: nowhere).

    With `worker`, what the app queues is executed by a local worker that leaves with it; a run that is under
    way then goes back to the queue.
    """
    # A plain `kill` of this process must leave neither the server nor the worker behind.
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
    """The command line of the server."""
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
