"""The map of domains: experts that lie near each other were trained on text of a like meaning."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from registry.catalog import list_experts, list_seeds
from registry.home import Registry
from registry.records import ExpertRecord
from ui import routes
from ui.components import empty_state
from ui.display import plural
from ui.domain_map import figure, project
from ui.session import current_registry, shown_errors

EVERY_SEED = ""


def render() -> None:
    """Draw the page: a filter by seed, then the map."""
    with st.container(key="back"):
        st.page_link(routes.catalog(), label="Catalog", icon=":material/arrow_back:")
    st.title("Map of domains", anchor=False)
    with shown_errors():
        registry = current_registry()
        experts = _experts(registry)
        if not experts:
            empty_state(
                "Nothing to draw yet",
                "Contribute an expert; its domain is a point of this map.",
                ["nexusmix contribute NAME ./expert --seed SEED --license SPDX --data ./text"],
            )
            return
        with st.spinner("Projecting domains …"):
            chart = figure(experts, project(experts))
        st.caption(
            f"{plural(len(experts), 'expert')} by the embeddings of their training text. Near means alike; the "
            "axes have no name of their own. Click a point to open its expert."
        )
        chosen = st.plotly_chart(chart, on_select="rerun", selection_mode="points", key="map")
        for point in chosen["selection"]["points"]:
            st.switch_page(routes.expert(), query_params={"ref": point["customdata"][0]})


def _experts(registry: Registry) -> list[ExpertRecord]:
    """The newest version of each expert, of one seed or of all, as far as one embedder made their domains."""
    seeds = [seed.name for seed in list_seeds(registry)]
    seed = EVERY_SEED
    if len(seeds) > 1:
        seed = st.selectbox(
            "Seed", [EVERY_SEED, *seeds], format_func=lambda name: name or "Every seed", width=220
        )
    newest = {expert.name: expert for expert in list_experts(registry, seed=seed or None)}
    if not newest:
        return []
    # Vectors of different embedders never meet: the most usual embedder is drawn.
    embedder, count = Counter(expert.embedding.embedder for expert in newest.values()).most_common(1)[0]
    if count < len(newest):
        st.info(f"{plural(len(newest) - count, 'expert')} of other embedders cannot be drawn beside these.")
    return [expert for expert in newest.values() if expert.embedding.embedder == embedder]
