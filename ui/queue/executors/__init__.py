"""Executors: systems that start the work of runs on other machines."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.errors import InvalidInputError

EXECUTORS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Needs:
    """What a run needs of a machine. `memory` is in bytes, and None if it is not known."""

    cpus: int = 1
    gpus: int = 0
    memory: int | None = None


class Executor(Protocol):
    """A system that runs commands as jobs. Its methods raise StorageError if it cannot be reached."""

    def submit(self, name: str, command: Sequence[str], environment: Mapping[str, str], needs: Needs) -> str:
        """Start a job when there is room for it, and return its id."""

    def alive(self, jobs: Collection[str]) -> set[str]:
        """Return those of the jobs that wait or run."""

    def cancel(self, job: str) -> None:
        """Stop a job, if it has not ended."""

    def output(self, job: str) -> str:
        """Return the last output of a job that has ended; empty if there is none."""


def executor_named(name: str, *, address: str | None, template: Path | None, logs: Path) -> Executor:
    """Return an executor. `logs` is a folder for the output of jobs.

    Raises InvalidInputError for an unknown name or a wrong template, StorageError if it cannot be reached.
    """
    if name == "ray":
        from ui.queue.executors.ray import RayExecutor

        return RayExecutor(address)
    if name == "slurm":
        from ui.queue.executors.slurm import SlurmExecutor

        return SlurmExecutor(logs, template)
    raise InvalidInputError(f"unknown executor {name[:100]!r}: expected one of {', '.join(EXECUTORS)}")


def as_shell(command: Sequence[str]) -> str:
    """Return a command as one line for a shell."""
    return shlex.join(command)
