"""The web app's server process: Streamlit's own command, beside which what the first page needs is imported.

The first visitor's browser reads Streamlit's scripts for most of a second; the imports come into that time.
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
    """Serve the app until it is ended."""
    from streamlit.web import cli

    threading.Thread(target=_import_when_it_listens, daemon=True).start()
    cli.main(["run", str(APP), *flags], prog_name="streamlit")


def _import_when_it_listens() -> None:
    """Earlier, the imports would only hold up the server's own."""
    from streamlit import runtime

    while not runtime.exists():
        time.sleep(POLL_SECONDS)
    for module in FIRST:
        importlib.import_module(module)


if __name__ == "__main__":
    main(sys.argv[1:])
