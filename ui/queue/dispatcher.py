"""The dispatcher: starts the work of queued runs as jobs of another system, such as Ray or Slurm.

A job is `nexusmix worker --run N` on some machine. It claims the run by the rules of every worker: it renews its lease,
writes progress, log and result into the run's row, and stops when the run is cancelled. So a run ends once, whichever
jobs are started for it, and the dispatcher may be restarted or exist twice. It only looks after these cases:

    queued, or abandoned by a worker whose lease has expired, and no job for it     start one
    ended, while its job waits or runs                                              stop the job
    several jobs in a row ended without claiming it                                 the run fails

A job whose machine died says nothing about the run. Many more of these are started, until the cluster has no use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from composer import resources
from composer.errors import ComposerError
from registry.errors import RegistryError
from registry.home import Registry
from registry.queue import claims, runs
from registry.records import RunRecord
from ui.queue.executors.base import Executor, Needs
from ui.queue.leaving import Leaving

POLL_SECONDS = 1.0
# A job that ends so early without claiming its run cannot work, for example because nexusmix is not installed there.
EARLY_SECONDS, MOST_EARLY = 60.0, 3
MOST_LOST = 30  # jobs in a row whose machines died before they claimed the run
CLOCKS_SECONDS = 5.0  # between the clocks of this machine and the database
SETTINGS = "NEXUSMIX_"
OWN_SETTINGS = ("NEXUSMIX_EXECUTOR", "NEXUSMIX_RAY_ADDRESS", "NEXUSMIX_SLURM_TEMPLATE")


@dataclass
class _Job:
    id: str
    attempt: int
    submitted: float


class Dispatcher:
    """One dispatcher on a registry; `say` is called with each line of status output."""

    def __init__(
        self, registry: Registry, executor: Executor, *, say: Callable[[str], None], cpus: int, most: int
    ) -> None:
        self.registry, self.executor, self.say = registry, executor, say
        self.cpus, self.most = cpus, most
        self._jobs: dict[int, _Job] = {}
        self._early: dict[int, int] = {}
        self._lost: dict[int, int] = {}

    def work(self, *, with_parent: bool = False) -> int:
        """Start jobs until SIGTERM or SIGINT, and return their number. Jobs go on without the dispatcher."""
        self.registry.actor.require("work on runs")
        started, leaving = 0, Leaving()
        with leaving.on_signals(with_parent=with_parent):
            while not leaving:
                try:
                    started += self.step()
                except RegistryError as error:  # the database or the executor may answer later
                    self.say(str(error))
                leaving.wait(POLL_SECONDS)
        return started

    def step(self) -> int:
        """Look at all live runs and jobs once, and return the number of jobs that were started."""
        live = {run.id: run for run in self._live()}
        alive = self.executor.alive([job.id for job in self._jobs.values()])
        for number, job in list(self._jobs.items()):
            if number not in live:
                if job.id in alive:
                    self.executor.cancel(job.id)
                del self._jobs[number]
                self._forget(number)
            elif job.id not in alive:
                del self._jobs[number]
                if self._gave_up(live[number], job):
                    del live[number]
        waiting = [run for number, run in sorted(live.items()) if number not in self._jobs and _waits(run)]
        chosen = waiting[: max(0, self.most - len(self._jobs))]
        for run in chosen:
            self._start(run)
        return len(chosen)

    def _live(self) -> list[RunRecord]:
        found: list[RunRecord] = []
        while page := runs.list_runs(self.registry, states=runs.LIVE, before=found[-1].id if found else None):
            found += page
        return found

    def _start(self, run: RunRecord) -> None:
        name = f"nexusmix-run-{run.id}-{run.attempt + 1}"
        command = ["python", "-m", "nexusmix", "worker", "--run", str(run.id)]
        job = self.executor.submit(name, command, self._environment(), self._needs(run))
        self._jobs[run.id] = _Job(job, run.attempt, time.monotonic())
        self.say(f"run {run.id} ({run.kind}): job {job}")

    def _gave_up(self, run: RunRecord, job: _Job) -> bool:
        """Count a job that ended early without claiming its run; after too many, end the run and return true."""
        if run.attempt > job.attempt or time.monotonic() - job.submitted > EARLY_SECONDS:
            self._forget(run.id)
            return False
        counted, most = (
            (self._lost, MOST_LOST) if self.executor.was_lost(job.id) else (self._early, MOST_EARLY)
        )
        counted[run.id] = counted.get(run.id, 0) + 1
        if counted[run.id] < most:
            return False
        output = self.executor.output(job.id)
        claimed = claims.claim(self.registry, "dispatcher", CLOCKS_SECONDS, run_id=run.id)
        if claimed is not None:
            error = f"{most} jobs ended before they began it; the last one, {job.id}, wrote: {output}"
            claims.finish(self.registry, claimed.fence, "failed", error=error)
            self.say(f"run {run.id} failed: {error}")
        return claimed is not None

    def _forget(self, run: int) -> None:
        self._early.pop(run, None)
        self._lost.pop(run, None)

    def _environment(self) -> Mapping[str, str]:
        """Return the settings of this registry, as variables of the environment."""
        own = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(SETTINGS) and name not in OWN_SETTINGS
        }
        url = self.registry.engine.url.render_as_string(hide_password=False)
        return {
            **own,
            "NEXUSMIX_HOME": str(self.registry.home),
            "NEXUSMIX_DATABASE_URL": url,
            "NEXUSMIX_EMBEDDER": self.registry.embedder,
        }

    def _needs(self, run: RunRecord) -> Needs:
        processes = resources.processes()
        on_gpu = os.environ.get(resources.DEVICE_VARIABLE) == "cuda"
        return Needs(self.cpus, processes if on_gpu else 0, self._memory(run))

    def _memory(self, run: RunRecord) -> int | None:
        """Return the estimated memory of a composition; None for other work."""
        if run.kind != "compose":
            return None
        from composer.estimate import estimate
        from registry.catalog.queries import get_parts

        recipe = run.request["recipe"]
        try:
            parts = get_parts(self.registry, recipe["seed"], recipe["experts"])
            return estimate(self.registry, *parts, recipe).memory
        except (RegistryError, ComposerError):  # the run itself will report it
            return None


def _waits(run: RunRecord) -> bool:
    """Return whether a run is queued, or its worker has not renewed its lease."""
    if run.state == "queued":
        return True
    expired = run.lease_until and run.lease_until + timedelta(seconds=CLOCKS_SECONDS) < datetime.now(UTC)
    return bool(expired)
