"""The button that adds an expert or a mix to the visitor's favourites."""

from __future__ import annotations

import streamlit as st

from registry.catalog.favourites import Kind, star, starred, unstar
from registry.home import Registry
from registry.names import name_key
from ui.web.session import shown_refusal


def star_button(registry: Registry, kind: Kind, name: str) -> None:
    """Draw the button; a refusal is shown below it."""
    is_mine = name_key(name) in starred(registry, kind)
    words = "Remove it from your favourites." if is_mine else "Add it to your favourites."
    icon = ":material/star:" if is_mine else ":material/star_border:"
    if st.button("Unstar" if is_mine else "Star", icon=icon, key="star", help=words):
        with shown_refusal():
            (unstar if is_mine else star)(registry, kind, name)
            st.rerun()
