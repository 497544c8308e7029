"""Runs nexusmix commands in processes that start warm: forked from a server that imported the libraries once.

Each command has its own process, streams and exit code, as from a shell, but does not wait for its imports.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# `pytest` is the main module of the tests' process, which each fork imports.
IMPORTED = (
    "pytest",
    "ui.cli",
    "composer.training.data_mix",
    "composer.composition",
    "registry.intake.intake",
)
_CONTEXT = multiprocessing.get_context("forkserver")


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one command in a forked process and wait for its exit."""
    _CONTEXT.set_forkserver_preload(list(IMPORTED))
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / "output", Path(folder) / "errors"]
        process = _CONTEXT.Process(target=_command, args=(list(arguments), dict(environment), streams))
        process.start()
        process.join()
        output, errors = (stream.read_text() if stream.exists() else "" for stream in streams)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(arguments, process.exitcode, output, errors)


def _command(arguments: list[str], environment: dict[str, str], streams: list[Path]) -> None:
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["nexusmix", *arguments]
    from ui.cli import main

    sys.exit(main())
