"""Starts the web app and a worker as child processes and ends them with us; Streamlit is not imported here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

from registry.errors import ConflictError
from ui.theme import streamlit_flags
from ui.worker import start_local

SERVER = "ui.frame.server"
FIRST_PORT = 8501
PORTS_TRIED = 50
STOP_SECONDS = 5.0
# A worker lets its run write what it must before it goes; it kills a run that does not.
WORKER_STOP_SECONDS = 15.0


def choose_port(address: str, port: int | None) -> int:
    """The port that was asked for, or the first free one from 8501. Raises ConflictError if it is taken."""
    candidates = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in candidates:
        if _is_free(address, candidate):
            return candidate
    asked = f"port {port} is" if port is not None else f"ports {FIRST_PORT} to {candidates[-1]} are"
    raise ConflictError(f"{asked} taken on {address}: end the other program, or choose another with --port")


def serve(
    home: Path, *, port: int, address: str = "localhost", browser: bool = True, worker: bool = True
) -> int:
    """Run the web app on the registry in `home` until it ends or Ctrl-C; returns its exit code.

    With `worker`, what the app queues is executed by a local worker that leaves with it; a run that is under
    way then goes back to the queue.
    """
    # A plain `kill` of this process must leave neither the server nor the worker behind.
    previous = signal.signal(signal.SIGTERM, _leave)
    children: list[tuple[subprocess.Popen[bytes], float]] = []
    try:
        server = subprocess.Popen(
            command(port=port, address=address, browser=browser),
            env={**os.environ, "NEXUSMIX_HOME": str(home)},
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
        with socket.create_server((address, port)):
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
