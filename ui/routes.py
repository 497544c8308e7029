"""The pages and their addresses; every link between pages is made from these."""

from __future__ import annotations

import streamlit as st


def catalog() -> st.Page:
    """/?q=TEXT&seed=SEED&page=N"""
    from ui.pages import catalog

    return st.Page(
        catalog.render, title="Catalog", icon=":material/search:", url_path="catalog", default=True
    )


def expert() -> st.Page:
    """/expert?ref=NAME@V"""
    from ui.pages import expert

    return st.Page(expert.render, title="Expert", url_path="expert", visibility="hidden")


def every_page() -> list[st.Page]:
    """The pages in the order of the header."""
    return [catalog(), expert()]
