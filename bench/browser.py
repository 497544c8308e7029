"""The web app as a child process and Chromium's flags, shared by the screenshots and the timings."""

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
    """A listening web app: its address, and the seconds from the start of its process until it listened."""

    url: str
    seconds: float


@contextmanager
def served(home: Path) -> Iterator[Served]:
    """Run `nexusmix ui` without a worker on the registry in `home`."""
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
            if url in line:  # the app prints its address once it listens
                break
        yield Served(url, time.monotonic() - began)
    finally:
        server.terminate()
        server.communicate()


def wait_for_script(page: Any) -> None:
    """Wait until the page's script has finished."""
    page.locator(".stApp[data-test-script-state='notRunning']").wait_for()
