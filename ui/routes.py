"""The pages and their addresses; every link between pages is made from these."""

from __future__ import annotations

import streamlit as st


def catalog() -> st.Page:
    """/?q=TEXT&seed=SEED&license=SPDX&size=tiny|small|medium|large&anchored=yes&measured=yes&page=N"""
    from ui.pages import catalog

    return st.Page(
        catalog.render, title="Catalog", icon=":material/search:", url_path="catalog", default=True
    )


def domain_map() -> st.Page:
    """/map"""
    from ui.pages import map

    return st.Page(map.render, title="Map", icon=":material/scatter_plot:", url_path="map")


def expert() -> st.Page:
    """/expert?ref=NAME@V"""
    from ui.pages import expert

    return st.Page(expert.render, title="Expert", url_path="expert", visibility="hidden")


def compose() -> st.Page:
    """/compose?seed=SEED&experts=A@1,B@2"""
    from ui.pages import compose

    return st.Page(compose.render, title="Compose", icon=":material/hub:", url_path="compose")


def mixes() -> st.Page:
    """/mixes?a=NAME@V&b=NAME@V compares two."""
    from ui.pages import mixes

    return st.Page(mixes.render, title="Mixes", icon=":material/account_tree:", url_path="mixes")


def mix() -> st.Page:
    """/mix?ref=NAME@V"""
    from ui.pages import mix

    return st.Page(mix.render, title="Mix", url_path="mix", visibility="hidden")


def playground() -> st.Page:
    """/playground?mix=NAME@V"""
    from ui.pages import playground

    return st.Page(playground.render, title="Play", icon=":material/stylus_note:", url_path="playground")


def runs() -> st.Page:
    """/runs"""
    from ui.pages import runs

    return st.Page(runs.render, title="Runs", icon=":material/monitoring:", url_path="runs")


def run() -> st.Page:
    """/run?id=N"""
    from ui.pages import run

    return st.Page(run.render, title="Run", url_path="run", visibility="hidden")


def contribute() -> st.Page:
    """/contribute?seed=SEED"""
    from ui.pages import contribute

    return st.Page(contribute.render, title="Contribute", icon=":material/upload:", url_path="contribute")


def every_page() -> list[st.Page]:
    """The pages in the order of the header."""
    return [
        catalog(),
        domain_map(),
        compose(),
        mixes(),
        playground(),
        runs(),
        contribute(),
        expert(),
        mix(),
        run(),
    ]
