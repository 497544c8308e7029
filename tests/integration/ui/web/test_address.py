"""Addresses of pages: a link opened again on another visit counts, an address already known in this visit does not."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

SCRIPT = """
import streamlit as st
from ui.web import address
address.visit(st.session_state.page)
st.text(address.opened().get("name", "nothing"))
address.write({"name": "written"})
"""


def opened(app: AppTest, page: str, name: str) -> str:
    """The name that the page reads from its address."""
    app.session_state["page"] = page
    app.query_params["name"] = name
    return app.run().text[0].value


def test_a_known_address_is_opened_only_by_another_visit() -> None:
    app = AppTest.from_string(SCRIPT)
    assert opened(app, "a", "law") == "law"
    assert opened(app, "a", "written") == opened(app, "a", "law") == "nothing"
    assert opened(app, "b", "sea") == "sea"
    assert opened(app, "a", "law") == "law"
