"""Runs Python in processes that start warm: forked from a server that imported the libraries once.

Each has its own process, streams and exit code, as from a shell, but does not wait for its imports.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import ModuleType
from unittest.mock import patch

IMPORTED = (
    "ui.cli",
    "composer.training.data_mix",
    "composer.composition",
    "registry.intake.intake",
)
COMMAND = "import sys; from ui.cli import main; sys.exit(main())"
_CONTEXT = multiprocessing.get_context("forkserver")


class Warm:
    """A running script, with the part of subprocess.Popen that the tests use."""

    def __init__(self, script: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        _CONTEXT.set_forkserver_preload(list(IMPORTED))
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(3)]
        (stdin, given), (output, stdout), (errors, stderr) = pipes
        streams = [stdin, stdout, stderr]
        self._process = _CONTEXT.Process(
            target=_execute, args=(script, list(arguments), dict(environment), streams)
        )
        # A fork imports its parent's main module, which for a page test was the page.
        with patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
            self._process.start()
        self.stdin = os.fdopen(os.dup(given.fileno()), "w")
        self.stdout, self.stderr = (os.fdopen(os.dup(stream.fileno())) for stream in (output, errors))
        for pipe in pipes:
            for end in pipe:
                end.close()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that killed it; None while it is running."""
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def communicate(self) -> tuple[str, str]:
        """Close the input, wait for the end of the process, and return the rest of both streams."""
        self.stdin.close()
        with ThreadPoolExecutor() as threads:
            output, errors = threads.map(lambda stream: stream.read(), (self.stdout, self.stderr))
        self._process.join()
        self.stdout.close()
        self.stderr.close()
        return output, errors


def start(script: str, *arguments: str, environment: Mapping[str, str] = os.environ) -> Warm:
    """Start a Python script with these arguments in a forked process."""
    return Warm(script, arguments, environment)


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one nexusmix command in a forked process and wait for its exit."""
    process = start(COMMAND, *arguments, environment=environment)
    output, errors = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def _execute(
    script: str, arguments: list[str], environment: dict[str, str], streams: list[Connection]
) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["nexusmix", *arguments]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
