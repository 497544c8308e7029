"""The ASGI app that the server runs: Streamlit's own app behind the guard and the login.

`streamlit run` imports this file by its path and searches it for a call of `App`.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from ui.web.frame import heap
from ui.web.frame.downloads import ROUTES
from ui.web.frame.first_paint import FirstPaint
from ui.web.frame.gate import Gate
from ui.web.frame.guard import Guard, allowed_hosts
from ui.web.frame.parent import report_listening
from ui.web.login import required

FIRST = ("ui.web.pages.catalog", "registry.domains.embedding", "registry.domains.index")


@asynccontextmanager
async def lifespan(_app: App) -> AsyncIterator[None]:
    """Report that the port is bound; import the first page's modules and load the embedder in a background thread.

    The first visitor's browser loads Streamlit's scripts for most of a second. The imports run in that time.
    """
    report_listening()
    threading.Thread(target=_warm_up, daemon=True).start()
    yield


def _warm_up() -> None:
    for module in FIRST:
        importlib.import_module(module)
    from registry.domains.embedding import load_embedder
    from registry.errors import RegistryError
    from ui.web.session import open_once

    # A failure is shown by the first search, to a visitor who can read it.
    with contextlib.suppress(RegistryError):
        load_embedder(open_once().embedder).encode(["warm"])
    heap.exclude_imports()


app = App(
    Path(__file__).with_name("app.py"),
    lifespan=lifespan,
    routes=ROUTES,
    middleware=[
        Middleware(Guard, hosts=allowed_hosts()),
        *([Middleware(Gate)] if required() == "token" else []),
        Middleware(FirstPaint),
    ],
)
