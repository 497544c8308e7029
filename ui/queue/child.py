"""The child process of a worker: executes one run, reports its progress, and passes the outcome to its parent.

Called as `python -m ui.queue.child RUN TOKEN DESCRIPTOR`. The outcome is one JSON object written to the open
file DESCRIPTOR: {"state": "succeeded", "result": {…}} or {"state": "failed", "error": "…"}. Without one, the
process was stopped or died. The process ends with its parent, which keeps the pipe to its standard input open.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Self

from registry.accounts import actor_named
from registry.errors import ConflictError, NotFoundError, RegistryError
from registry.home import Registry, open_registry
from registry.queue.claims import report
from registry.queue.runs import get_run
from registry.records import Fence, Metric

REPORT_SECONDS = 1.0
STOPPED = 128 + signal.SIGTERM
GC_THRESHOLD = 50_000  # as in nexusmix/__main__.py: imports create many objects but no garbage


class Stopped(BaseException):
    """Raised on SIGTERM: run all `finally` blocks and publish nothing more."""


def main(arguments: Sequence[str]) -> int:
    """Execute the run. Return 0 if it succeeded, or failed with a reported error."""
    gc.set_threshold(GC_THRESHOLD)
    from composer.progress import measuring
    from ui.queue.jobs import execute

    run_id, token, descriptor = map(int, arguments)
    # The log is for the person who queued the run. Libraries' notices to developers would flood it.
    warnings.simplefilter("ignore", FutureWarning)
    signal.signal(signal.SIGTERM, _stop)
    _end_with_parent()
    try:
        fence = Fence(run_id, token)
        registry = open_registry()
        run = get_run(registry, run_id)
        # The run has the rights of the person who queued it, not those of the worker.
        actor = registry.actor if run.actor is None else actor_named(registry, run.actor)
        registry = replace(registry, fence=fence, actor=actor)
        with Reporter(registry, fence) as reporter, measuring(reporter.measure):
            outcome = {"state": "succeeded", "result": execute(registry, run, reporter.progress)}
    except Stopped:
        return STOPPED
    except MemoryError:  # another attempt may have more memory; training progress is kept
        traceback.print_exc()
        return 1
    except Exception as error:
        traceback.print_exc()
        outcome = {"state": "failed", "error": _explain(error)}
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(outcome, file)
    return 0


class Reporter:
    """Writes progress and metrics to the run's row once per second, from a separate thread."""

    def __init__(self, registry: Registry, fence: Fence, every: float = REPORT_SECONDS) -> None:
        self._registry, self._fence, self._every = registry, fence, every
        self._lock = threading.Lock()
        self._progress: tuple[str, int, int] | None = None
        self._metrics: list[Metric] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_reporting, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._flush()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Store the progress until the next report; only the newest is kept. A new stage is also logged."""
        with self._lock:
            if self._progress is None or self._progress[0] != stage:
                print(stage, flush=True)  # noqa: T201
            self._progress = (stage, done, total)

    def measure(self, name: str, step: int, value: float) -> None:
        """Store a metric until the next report."""
        with self._lock:
            self._metrics.append(Metric(name, step, value))

    def _keep_reporting(self) -> None:
        reported = None
        while not self._ended.wait(self._every):
            if (self._progress, bool(self._metrics)) != (reported, False):
                reported = self._progress
                self._flush()

    def _flush(self) -> None:
        with self._lock:
            progress, metrics, self._metrics = self._progress, self._metrics, []
        if progress is None and not metrics:
            return
        try:
            report(self._registry, self._fence, progress=progress, metrics=metrics)
        except (ConflictError, NotFoundError) as error:  # another worker has taken over the run
            print(error, flush=True)  # noqa: T201
            os.kill(os.getpid(), signal.SIGTERM)
        except RegistryError:  # the database is busy or unreachable: retry with the next report
            with self._lock:
                self._metrics = metrics + self._metrics


def _explain(error: Exception) -> str:
    from composer.errors import ComposerError
    from ui.wording.failures import describe

    if isinstance(error, (RegistryError, ComposerError, OSError)):
        return "\n".join(describe(error)).removeprefix("error: ")
    return f"unexpected {type(error).__name__}: {error}; the traceback is at the end of the log"


def _stop(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
    raise Stopped


def _end_with_parent() -> None:
    """Kill this process and its children when the parent has ended for any reason."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code == STOPPED:  # somebody waits, and everything is cleaned up: the libraries need no orderly end
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
