"""Addresses, titles and icons of the pages; every link between pages is made from these.

Streamlit identifies a page by its address, so a link needs only the address. A page can therefore link to another
page without importing it. Only the frame passes the functions that render the pages.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

Render = Callable[[], None]


def _link_only() -> None:
    """Placeholder body of a page that is only a link target; it never runs."""


def catalog(render: Render = _link_only) -> st.Page:
    """/?q=TEXT;TEXT&seed=SEED&license=SPDX&size=tiny|small|medium|large&anchored=yes&starred=yes&measured=yes&order=newest&page=N"""
    return st.Page(render, title="Catalog", icon=":material/search:", url_path="catalog", default=True)


def domain_map(render: Render = _link_only) -> st.Page:
    """/map?q=TEXT;TEXT (draws each text as a star)"""
    return st.Page(render, title="Map", icon=":material/scatter_plot:", url_path="map")


def expert(render: Render = _link_only) -> st.Page:
    """/expert?ref=NAME@V"""
    return st.Page(render, title="Expert", url_path="expert", visibility="hidden")


def compose(render: Render = _link_only) -> st.Page:
    """/compose?seed=SEED&experts=A@1,B@2&kind=whole|merged, and the fields of the recipe that are not the default"""
    return st.Page(render, title="Compose", icon=":material/hub:", url_path="compose")


def mixes(render: Render = _link_only) -> st.Page:
    """/mixes"""
    return st.Page(render, title="Mixes", icon=":material/account_tree:", url_path="mixes")


def workbench(render: Render = _link_only) -> st.Page:
    """/compare?mixes=NAME@V,NAME@V,…"""
    return st.Page(render, title="Compare", url_path="compare", visibility="hidden")


def mix(render: Render = _link_only) -> st.Page:
    """/mix?ref=NAME@V"""
    return st.Page(render, title="Mix", url_path="mix", visibility="hidden")


def playground(render: Render = _link_only) -> st.Page:
    """/playground?mix=NAME@V&beside=seed|NAME@V&prompt=TEXT, and the settings that are not the default"""
    return st.Page(render, title="Play", icon=":material/stylus_note:", url_path="playground")


def lens(render: Render = _link_only) -> st.Page:
    """/lens?mix=NAME@V&beside=NAME@V&text=TEXT"""
    return st.Page(render, title="Lens", icon=":material/visibility:", url_path="lens")


def runs(render: Render = _link_only) -> st.Page:
    """/runs"""
    return st.Page(render, title="Runs", icon=":material/monitoring:", url_path="runs")


def run(render: Render = _link_only) -> st.Page:
    """/run?id=N"""
    return st.Page(render, title="Run", url_path="run", visibility="hidden")


def contribute(render: Render = _link_only) -> st.Page:
    """/contribute?seed=SEED&source=PATH&name=NAME&license=SPDX&data=PATHS, and the other fields of the form"""
    return st.Page(render, title="Contribute", icon=":material/upload:", url_path="contribute")


def log(render: Render = _link_only) -> st.Page:
    """/log?subject=NAME@V&user=NAME&before=ID"""
    return st.Page(render, title="Log", icon=":material/history:", url_path="log")


def seed(render: Render = _link_only) -> st.Page:
    """/add-seed?source=PATH&name=NAME&license=SPDX, and the other fields of the form"""
    return st.Page(render, title="Add a seed", url_path="add-seed", visibility="hidden")
