"""Executors: systems that start the work of runs on other machines."""

from __future__ import annotations

from pathlib import Path

from registry.errors import InvalidInputError
from ui.queue.executors.base import Executor

EXECUTORS = ("local", "ray", "slurm")


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
