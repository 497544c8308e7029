"""Ray Jobs: each run is a job of a Ray cluster, submitted to the address of its dashboard."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from composer.extras import require
from registry.errors import StorageError
from ui.queue.executors.base import Needs, as_shell

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
OUTPUT_CHARACTERS = 2000
Result = TypeVar("Result")


class RayExecutor:
    """Executor by the Ray cluster at `address`, else at $RAY_ADDRESS, else on this machine."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
        require("ray", "ray")
        from ray.job_submission import JobSubmissionClient

        self._client: Any = self._tried(lambda: JobSubmissionClient(self.address))

    def submit(self, name: str, command: Sequence[str], environment: Mapping[str, str], needs: Needs) -> str:
        """Submit a job. Ray starts it when a node has the cores, cards and memory free."""
        return str(
            self._tried(
                lambda: self._client.submit_job(
                    entrypoint=as_shell(command),
                    runtime_env={"env_vars": dict(environment)},
                    metadata={"job_name": name},
                    entrypoint_num_cpus=needs.cpus,
                    entrypoint_num_gpus=needs.gpus,
                    entrypoint_memory=needs.memory,
                )
            )
        )

    def alive(self, jobs: Collection[str]) -> set[str]:
        """Return those of the jobs that wait or run."""
        if not jobs:
            return set()
        found = self._tried(self._client.list_jobs)
        return {job.submission_id for job in found if not job.status.is_terminal()} & set(jobs)

    def cancel(self, job: str) -> None:
        """Stop a job: SIGTERM, then SIGKILL."""
        self._tried(lambda: self._client.stop_job(job))

    def output(self, job: str) -> str:
        """Return the last output of a job."""
        info = self._tried(lambda: self._client.get_job_info(job))
        text = self._tried(lambda: self._client.get_job_logs(job)) or info.message or ""
        return str(text)[-OUTPUT_CHARACTERS:]

    def was_lost(self, job: str) -> bool:
        """Return whether the command of a job has no exit code, because its node died or never ran it."""
        info = self._tried(lambda: self._client.get_job_info(job))
        return getattr(info, "driver_exit_code", None) is None

    def _tried(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except (RuntimeError, OSError) as error:  # of requests, or of the server
            raise StorageError(f"Ray at {self.address} does not answer as expected: {error}") from error
