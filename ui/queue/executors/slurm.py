"""Slurm: each run is a batch job, whose script is a template that a site can replace.

A template is a script in which these words are replaced: @name, @log, @cpus, @gpus, @megabytes, @command. @resources
are the lines for cores, cards and memory that the job needs.
"""

from __future__ import annotations

import os
import shutil
import string
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from registry.errors import InvalidInputError, StorageError
from ui.queue.executors.base import Needs, as_shell

TEMPLATE = """\
#!/bin/sh
#SBATCH --job-name=@name
#SBATCH --output=@log
@resources
exec @command
"""
PROGRAMS = ("sbatch", "squeue", "scancel")
SECONDS = 60.0
OUTPUT_CHARACTERS = 2000


class _Script(string.Template):
    delimiter = "@"


class SlurmExecutor:
    """Executor by the Slurm cluster of this machine. `logs` is a folder that the nodes can write to."""

    def __init__(self, logs: Path, template: Path | None = None) -> None:
        absent = [program for program in PROGRAMS if shutil.which(program) is None]
        if absent:
            raise StorageError(
                f"{', '.join(absent)} not found: start the worker on a machine that submits to Slurm"
            )
        self.logs = logs
        self.template = TEMPLATE if template is None else _read(template)
        self.script("check", ["true"], Needs())

    def script(self, name: str, command: Sequence[str], needs: Needs) -> str:
        """Return the batch script of a job. Raises InvalidInputError for an unknown word in the template."""
        lines = [f"#SBATCH --cpus-per-task={needs.cpus}"]
        lines += [f"#SBATCH --gpus={needs.gpus}"] if needs.gpus else []
        megabytes = -(-(needs.memory or 0) // 2**20)
        lines += [f"#SBATCH --mem={megabytes}M"] if megabytes else []
        words = {
            "name": name,
            "log": self.logs / f"{name}.log",
            "cpus": needs.cpus,
            "gpus": needs.gpus,
            "megabytes": megabytes,
            "resources": "\n".join(lines),
            "command": as_shell(command),
        }
        try:
            return _Script(self.template).substitute(words)
        except (KeyError, ValueError) as error:
            raise InvalidInputError(
                f"the template of batch scripts contains a word that has no value ({error}): use "
                f"{', '.join(f'@{word}' for word in words)}, and @@ for @"
            ) from error

    def submit(self, name: str, command: Sequence[str], environment: Mapping[str, str], needs: Needs) -> str:
        """Submit a job. Slurm passes the environment on, so secrets are not in the script."""
        self.logs.mkdir(parents=True, exist_ok=True)
        script = self.script(name, command, needs)
        return _run(["sbatch", "--parsable"], script, environment).strip().partition(";")[0]

    def alive(self, jobs: Collection[str]) -> set[str]:
        """Return those of the jobs that wait or run."""
        if not jobs:
            return set()
        return set(_run(["squeue", "--me", "--noheader", "--format=%i"]).split()) & set(jobs)

    def cancel(self, job: str) -> None:
        """Stop a job."""
        _run(["scancel", job])

    def output(self, job: str) -> str:
        """Return nothing: the logs are in files named after the runs."""
        return f"see its log in {self.logs}"

    def was_lost(self, job: str) -> bool:
        """Return false: Slurm puts the jobs of a machine that fails back in its queue by itself."""
        return False


def _read(template: Path) -> str:
    try:
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read the template {template}: {error}") from error


def _run(command: Sequence[str], text: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Return the output of a program. Raises StorageError if it fails."""
    try:
        ran = subprocess.run(
            command,
            input=text,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"cannot run {command[0]}: {error}") from error
    if ran.returncode:
        raise StorageError(f"{command[0]} failed: {ran.stderr.strip()[-1000:]}")
    return ran.stdout
