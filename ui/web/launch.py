"""Start the web app and a worker as child processes, and stop them on exit; Streamlit is not imported here.

The app listens on this machine only, for its own user, unless its visitors log in. Then it reads and writes only in the
configured folders.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from registry.accounts import has_accounts
from registry.errors import ConflictError, InvalidInputError
from registry.home import Registry
from ui.queue.roots import Roots
from ui.queue.worker import start_local
from ui.web.frame.guard import ANY_ADDRESS, HOSTS_VARIABLE, LOCAL_HOSTS
from ui.web.frame.parent import PARENT_VARIABLE
from ui.web.login import LOGIN_VARIABLE
from ui.web.theme import streamlit_flags

APP = Path(__file__).with_name("frame") / "served.py"
LOGINS = ("token", "oidc")
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


def is_shared(address: str, hosts: Sequence[str]) -> bool:
    """Return whether others can reach the app: by a network, or by a proxy that serves it under another name."""
    return not is_local(address) or bool(hosts)


def check_login(registry: Registry, how: str | None, *, shared: bool) -> str | None:
    """Return how visitors log in: "token", "oidc", or None for an app that only its own user can reach.

    `how` is the user's wish; the default is a token if others can reach the app. Raises InvalidInputError if nobody
    could log in.
    """
    if how not in (None, *LOGINS):
        raise InvalidInputError(f"no login {how!a}: expected {' or '.join(LOGINS)}")
    if how is None and not shared:
        return None
    if not has_accounts(registry):
        raise InvalidInputError(
            "others can reach this app, so its visitors must log in, and the registry has no accounts: add one with "
            "`nexusmix users add NAME --role maintainer`, or keep the app on localhost and use an SSH tunnel"
        )
    if how == "oidc" and not _has_provider():
        raise InvalidInputError(
            "no OpenID Connect provider is configured: write the section [auth] of .streamlit/secrets.toml, as "
            "https://docs.streamlit.io/develop/concepts/connections/authentication describes, and install Authlib"
        )
    return how or "token"


def _has_provider() -> bool:
    """Return whether Streamlit's own login is configured and its library is installed."""
    for folder in (Path.cwd(), Path.home()):
        try:
            secrets = tomllib.loads((folder / ".streamlit" / "secrets.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if "auth" in secrets:
            return find_spec("authlib") is not None
    return False


def hosts_of(address: str, hosts: Sequence[str] = ()) -> list[str]:
    """Return the host names the app answers to: the local names, the address, and `hosts`."""
    names = [*LOCAL_HOSTS, address.lower(), *(host.lower() for host in hosts)]
    if not is_local(address):
        names += [ANY_ADDRESS, socket.gethostname().lower(), socket.getfqdn().lower()]
    return [name for name in dict.fromkeys(names) if name]


def serve(
    home: Path,
    *,
    listening: Callable[[int], None],
    port: int | None = None,
    address: str = "localhost",
    hosts: Sequence[str] = (),
    roots: Roots | None = None,
    login: str | None = None,
    worker: bool = True,
) -> int:
    """Run the web app on the registry in `home` until it stops or Ctrl-C; return its exit code.

    It answers to its own names and `hosts`, and reads and writes below `roots` (default: nowhere). Visitors log in by
    `login` ("token" or "oidc"); None: they act as the user of this process. Without `port`, it takes the first free one
    from 8501. `listening` is called with the port once the app listens.

    With `worker`, a local worker executes the queued runs and stops together with the app. A run that is not
    finished then returns to the queue. Raises ConflictError if no port is free.
    """
    settings = {
        **os.environ,
        "NEXUSMIX_HOME": str(home),
        HOSTS_VARIABLE: ",".join(hosts_of(address, hosts)),
        LOGIN_VARIABLE: login or "",
        **(roots or Roots()).environment(),
    }
    # A plain `kill` of this process must also stop the server and the worker.
    previous = signal.signal(signal.SIGTERM, _leave)
    children: list[tuple[subprocess.Popen[bytes], float]] = []
    with ExitStack() as links:
        try:
            server, chosen = _start_server(settings, address, port, children, links)
            if chosen is not None:
                listening(chosen)
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


def command(*, port: int, address: str) -> list[str]:
    """Return the command line of the server. Streamlit opens no browser and asks nothing."""
    return [
        *(sys.executable, "-P", "-m", "streamlit", "run", str(APP)),
        f"--server.port={port}",
        f"--server.address={address}",
        "--server.headless=true",
        *streamlit_flags(),
    ]


def _start_server(
    settings: dict[str, str],
    address: str,
    port: int | None,
    children: list[tuple[subprocess.Popen[bytes], float]],
    links: ExitStack,
) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start the server on a free port, and wait until it listens or ends; return it with the port, or with None.

    It writes one byte to its end of a socket pair when it listens, and ends when the other end, in `links`, closes.
    """
    for candidate in _free_ports(address, port):
        ours, servers = socket.socketpair()
        links.enter_context(ours)
        with servers:
            server = subprocess.Popen(
                command(port=candidate, address=address),
                env={**settings, PARENT_VARIABLE: str(servers.fileno())},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                pass_fds=[servers.fileno()],
                start_new_session=True,  # Ctrl-C reaches only this process, which then stops the server
            )
        children.append((server, STOP_SECONDS))
        if ours.recv(1):
            return server, candidate
        server.wait()
        if _is_free(address, candidate):
            return server, None
        # Another program took the port between the check and the server's start: try the next one.
    asked = (
        f"port {port} is" if port is not None else f"ports {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} are"
    )
    raise ConflictError(
        f"{asked} taken on {address}: stop the other program, or choose another port with --port"
    )


def _free_ports(address: str, port: int | None) -> Iterator[int]:
    """Yield the ports to try that are free at the moment of the request."""
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]:
        if _is_free(address, candidate):
            yield candidate


def _is_free(address: str, port: int) -> bool:
    # As Streamlit does: a name such as localhost is bound by its IPv4 address.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
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
