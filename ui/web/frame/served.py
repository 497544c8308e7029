"""The ASGI app that the server runs: Streamlit's own app behind the guard.

`streamlit run` imports this file by its path and searches it for a call of `App`.
"""

from __future__ import annotations

from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from ui.web.frame.guard import Guard, allowed_hosts

app = App(Path(__file__).with_name("app.py"), middleware=[Middleware(Guard, hosts=allowed_hosts())])
