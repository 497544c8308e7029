"""The web app as a child process and Chromium's flags, for what looks at pages: pictures and timings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM_PATH = "/usr/bin/chromium"
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@dataclass(frozen=True)
class Served:
    """A web app that listens: its address, and the seconds from its process's start until it said so."""

    url: str
    seconds: float


@contextmanager
def served(home: Path) -> Iterator[Served]:
    """`nexusmix ui` without a worker on the registry in `home`."""
    command = [sys.executable, "-c", "import sys; from ui.cli import main; sys.exit(main())"]
    began = time.monotonic()
    server = subprocess.Popen(
        [*command, "--home", str(home), "ui", "--no-browser", "--no-worker", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )
    assert server.stdout is not None and server.stderr is not None
    try:
        url = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["url"]
        for line in server.stderr:
            if url in line:  # it listens
                break
        yield Served(url, time.monotonic() - began)
    finally:
        server.terminate()
        server.communicate()


def wait_for_script(page: Any) -> None:
    """Until the page's script has run to its end."""
    page.locator(".stApp[data-test-script-state='notRunning']").wait_for()
