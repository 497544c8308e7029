"""The worker: claims runs one by one and executes each in a child process, so that a crash does no harm.

The worker needs little memory: torch, the models and any memory leaks are in the child and end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from registry.catalog.gc import GRACE
from registry.errors import ConflictError, NotFoundError, RegistryError
from registry.home import Registry
from registry.queue import claims
from registry.queue.runs import get_run
from registry.records import RunRecord
from ui.queue.leaving import Leaving
from ui.wording.display import plural

LEASE_SECONDS = 30.0
POLL_SECONDS = 1.0
TICK_SECONDS = 0.25
STOP_SECONDS = 10.0  # for a run that continues on another worker, to save its state
CANCEL_SECONDS = 1.0
# Work folders of failed and cancelled runs are kept for this time, so that a retry can resume from them.
WORK_SECONDS = 7 * 86_400.0


def default_name() -> str:
    """Return the default name of a worker: the host name and the process id."""
    return f"{socket.gethostname()}-{os.getpid()}"


def start_local(home: Path) -> subprocess.Popen[bytes]:
    """Start a worker on the registry in `home`. It exits when this process ends or closes the pipe to it."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nexusmix", "--home", str(home), "worker", "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        start_new_session=True,  # Ctrl-C reaches only the parent; the worker ends with the parent
    )


class Worker:
    """One worker on a registry; `say` is called with each line of status output."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        *,
        say: Callable[[str], None],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.registry, self.name, self.say, self.lease_seconds = registry, name, say, lease_seconds
        self._leaving = Leaving()

    def work(self, *, once: bool = False, with_parent: bool = False, run_id: int | None = None) -> int:
        """Execute runs until SIGTERM or SIGINT. With `once`, execute one queued run, if any; or that with `run_id`.

        With `with_parent`, also stop at the end of standard input, which the parent keeps open. An active run is
        then queued again, and its attempt is not counted. Returns the number of runs worked on.
        """
        self.registry.actor.require("work on runs")
        self._sweep()
        worked = 0
        with self._leaving.on_signals(with_parent=with_parent):
            while not self._leaving:
                run = self._claim(run_id)
                if run is not None:
                    self._execute(run)
                    worked += 1
                if once or run_id is not None:
                    break
                if run is None:
                    self._leaving.wait(POLL_SECONDS)
        return worked

    def _sweep(self) -> None:
        from registry import work_folders

        swept = [
            *self.registry.blobs.sweep(GRACE.total_seconds()),
            *work_folders.sweep(self.registry, WORK_SECONDS),
        ]
        if swept:
            self.say(f"removed leftovers of {plural(len(swept), 'interrupted operation')}")

    def _claim(self, run_id: int | None) -> RunRecord | None:
        try:
            return claims.claim(self.registry, self.name, self.lease_seconds, run_id=run_id)
        except RegistryError as error:  # the database is busy or unreachable: retry later
            self.say(str(error))
            return None

    def _execute(self, run: RunRecord) -> None:
        self.say(f"run {run.id} ({run.kind}), attempt {run.attempt} of {run.max_attempts}")
        with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as outcome:
            child = self._start(run, log, outcome)
            try:
                tail = _Tail(log)
                self._watch(child, run, tail)
                ended = self._settle(child, run, tail, _read(outcome))
            except (ConflictError, NotFoundError) as error:  # ended, or taken over by another worker
                self.say(str(error))
                return
            except RegistryError as error:
                self.say(f"run {run.id} is left for the next worker: {error}")
                return
            finally:
                _kill_group(child)
        self.say(f"run {run.id} {'is queued again' if ended.is_live else ended.state}")

    def _start(self, run: RunRecord, log: IO[bytes], outcome: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the child in its own process group: Ctrl-C reaches only the worker, and a kill ends the whole group."""
        settings = {
            "NEXUSMIX_HOME": str(self.registry.home),
            "NEXUSMIX_DATABASE_URL": self.registry.engine.url.render_as_string(hide_password=False),
            "NEXUSMIX_EMBEDDER": self.registry.embedder,
        }
        arguments = map(str, (run.id, run.token, outcome.fileno()))
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ui.queue.child", *arguments],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,  # the child ends when this closes
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[outcome.fileno()],
        )

    def _watch(self, child: subprocess.Popen[bytes], run: RunRecord, tail: _Tail) -> None:
        """Watch the child until it ends: renew the lease, save its log, and stop it on request.

        Raises ConflictError when the run no longer belongs to this worker.
        """
        renewed = time.monotonic()
        stopped: float | None = None
        while not _has_ended(child):
            now = time.monotonic()
            if stopped is not None and now - stopped > (STOP_SECONDS if self._leaving else CANCEL_SECONDS):
                _kill_group(child)
            try:
                if stopped is None and (self._leaving or self._is_cancelled(run)):
                    child.terminate()
                    stopped = now
                if now - renewed > self.lease_seconds / 3:
                    claims.heartbeat(self.registry, run.fence, self.lease_seconds)
                    renewed = now
                self._pass_on(run, tail)
            except (ConflictError, NotFoundError):
                raise
            except RegistryError as error:  # the database may be reachable again before the lease expires
                self.say(str(error))

    def _settle(
        self, child: subprocess.Popen[bytes], run: RunRecord, tail: _Tail, outcome: dict[str, Any] | None
    ) -> RunRecord:
        """End the run with its child's outcome. Without one, the child was stopped or died: release the run."""
        self._pass_on(run, tail)
        if outcome is not None:
            return claims.finish(self.registry, run.fence, **outcome)
        if self._leaving:
            return claims.release(self.registry, run.fence)
        return claims.release(self.registry, run.fence, error=_cause_of_death(child.returncode))

    def _is_cancelled(self, run: RunRecord) -> bool:
        return get_run(self.registry, run.id).cancel_requested

    def _pass_on(self, run: RunRecord, tail: _Tail) -> None:
        text = tail.read()
        if text:
            claims.report(self.registry, run.fence, log=text)


class _Tail:
    """Reads the new text of a file that another process is writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._offset = file, 0

    def read(self) -> str:
        """Return the new text, cut to the newest part if it exceeds the stored length of a log."""
        size = os.fstat(self._file.fileno()).st_size
        start = max(self._offset, size - claims.LOG_CHARACTERS)
        data = os.pread(self._file.fileno(), size - start, start)  # pread keeps the child's file position
        self._offset = size
        return data.decode("utf-8", "replace")


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and all processes that it started, and reap the child."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def _read(outcome: IO[bytes]) -> dict[str, Any] | None:
    """Return the outcome written by the child, or None if it is absent or incomplete."""
    outcome.seek(0)
    try:
        return json.loads(outcome.read()) or None
    except ValueError:
        return None


def _cause_of_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the process was killed, possibly because memory ran out"
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"
