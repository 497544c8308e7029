"""Helpers: processes that a composition starts on this machine, and their connection to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

from composer import resources
from composer.errors import DeviceError
from registry.home import Registry

# Helpers wait for tasks as long as the leader works alone. The death of a process closes its connections at once.
PATIENCE = timedelta(days=7)
LOG_CHARACTERS = 2000
# The threshold is that of nexusmix/__main__.py: imports create many objects but no garbage.
FOLLOW = (
    "import gc, sys; gc.set_threshold(50_000); from composer.processes import follow; follow(*sys.argv[1:])"
)


@dataclass(frozen=True)
class Helper:
    """A follower that this process started. It ends when its standard input closes, so it never outlives its leader."""

    rank: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def cause(self, size: int) -> str:
        """Return why it ended, in words."""
        code = self.process.returncode
        text = os.pread(self.log.fileno(), 1 << 20, 0).decode("utf-8", "replace").strip()
        last = text.splitlines()[-1][-LOG_CHARACTERS:] if text else f"exit code {code}"
        if code is not None and code < 0:
            last = f"it was killed by signal {-code}, possibly because memory ran out"
        return f"process {self.rank + 1} of {size} ended: {last}"


@contextmanager
def started(registry: Registry, rank: int, size: int, place: Path, threads: int) -> Iterator[Helper]:
    settings = {
        "NEXUSMIX_HOME": str(registry.home),
        "NEXUSMIX_DATABASE_URL": registry.engine.url.render_as_string(hide_password=False),
        "NEXUSMIX_EMBEDDER": registry.embedder,
        "OMP_NUM_THREADS": str(threads),
        **resources.as_environment(),
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", FOLLOW, str(rank), str(size), str(place)],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the leader
        )
        try:
            yield Helper(rank, process, log)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def meet(rank: int, size: int, place: Path) -> None:
    """Connect the processes of this machine through a file."""
    from torch import distributed

    chosen = backend(rank)
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    if before is None and sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # nobody else can connect
    try:
        store = distributed.FileStore(str(place), size)
        distributed.init_process_group(chosen, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    finally:
        if before is None:
            os.environ.pop("GLOO_SOCKET_IFNAME", None)


def backend(local_rank: int) -> str:
    """Return the names of the backends, and choose this process's card. Raises DeviceError."""
    import torch

    kind = resources.device().type
    if kind == "cpu":
        return "gloo"
    if kind == "mps":
        raise DeviceError("a Mac's GPU cannot be shared by several processes: use one, or --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise DeviceError(
            f"there are {torch.cuda.device_count()} cards for more processes: start as many processes as cards"
        )
    torch.cuda.set_device(local_rank)
    return "cpu:gloo,cuda:nccl"


def end_with_leader() -> None:
    """End this process when the leader closes its standard input, or dies."""
    while os.read(0, 1):
        pass
    os._exit(1)
