"""The web app's server process: Streamlit's command, with the first page's imports in a background thread.

The first visitor's browser loads Streamlit's scripts for most of a second. The imports run in that time.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

APP = Path(__file__).with_name("served.py")
FIRST = ("ui.web.pages.catalog", "registry.domains.embedding", "registry.domains.index")
POLL_SECONDS = 0.02


def main(flags: Sequence[str]) -> None:
    """Serve the app until the process is stopped."""
    from streamlit.web import cli

    threading.Thread(target=_import_when_it_listens, daemon=True).start()
    cli.main(["run", str(APP), *flags], prog_name="streamlit")


def _import_when_it_listens() -> None:
    """Import the first page's modules once Streamlit runs; earlier, they would delay its start."""
    from streamlit import runtime

    while not runtime.exists():
        time.sleep(POLL_SECONDS)
    for module in FIRST:
        importlib.import_module(module)


if __name__ == "__main__":
    main(sys.argv[1:])
