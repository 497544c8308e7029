"""Run whole processes and measure wall time, CPU time, peak total memory and peak anonymous memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Usage:
    """Resources used by one process. Memory is in MB (10⁶ bytes); `anonymous` excludes mapped files.

    `team` is the anonymous memory of the process and those that it started, all together.
    """

    wall: float
    cpu: float
    total: float
    anonymous: float
    team: float
    output: str


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command until it exits. Raises RuntimeError with its standard error if it fails.

    The kernel reports the peak of total memory (`ru_maxrss`); anonymous memory is sampled.
    A child process starts with its parent's peak, so the caller must be small and must not import torch.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    texts = {"stdout": "", "stderr": ""}
    readers = [
        threading.Thread(target=lambda name=name: texts.update({name: getattr(process, name).read()}))
        for name in texts
    ]
    for reader in readers:
        reader.start()
    anonymous = team = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        own = _anonymous_kb(process.pid)
        anonymous = max(anonymous, own)
        team = max(team, own + sum(map(_anonymous_kb, _children(process.pid))))
        time.sleep(SAMPLE_SECONDS)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    for reader in readers:
        reader.join()
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))} exited with {process.returncode}:\n{texts['stderr'][-3000:]}"
        )
    return Usage(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        total=usage.ru_maxrss * 1024 / 1e6,
        anonymous=anonymous * 1024 / 1e6,
        team=team * 1024 / 1e6,
        output=texts["stdout"],
    )


def folder_bytes(folder: Path) -> int:
    """Total size in bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def load_average() -> float:
    """Mean number of runnable processes over the last minute: the load of the machine."""
    return os.getloadavg()[0]


def note(text: str) -> None:
    """Print a progress line to standard error."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _children(pid: int) -> list[int]:
    """Return the processes that a process's main thread started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _anonymous_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
