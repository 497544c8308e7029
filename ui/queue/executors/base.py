"""What executors have in common: the needs of a run, their methods, and a command as one line."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


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

    def was_lost(self, job: str) -> bool:
        """Return whether a job that has ended was broken off with its machine; its command did not end by itself."""


def as_shell(command: Sequence[str]) -> str:
    """Return a command as one line for a shell."""
    return shlex.join(command)
