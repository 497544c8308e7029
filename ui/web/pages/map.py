"""The map of domains: experts near each other were trained on text of similar meaning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from registry.catalog.queries import experts_stamp, list_domains, list_experts, list_seeds
from registry.home import Registry
from registry.records import EmbedderId
from ui.web import routes
from ui.web.components import contribute_link, empty_state, expert_link, page_title
from ui.web.domain_map import Plane, figure, project, with_needs
from ui.web.needs import needs_of
from ui.web.session import current_registry, first_steps, shown_errors, shown_refusal
from ui.wording.display import plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

EVERY_SEED = ""
MOST_CHARTS = 4
MOST_LISTED = 200


def render() -> None:
    """Draw the page: a filter by seed, then the map."""
    with st.container(key="back"):
        st.page_link(routes.catalog(), label="Catalog", icon=":material/arrow_back:")
    page_title("Map of domains")
    with shown_errors():
        registry = current_registry()
        seed = _chosen_seed(registry)
        drawing = _chart(registry, str(registry.home), seed, experts_stamp(registry))
        if drawing is None:
            empty_state(
                "No experts yet",
                "Each expert's domain is a point on this map. Contribute an expert first.",
            )
            if list_seeds(registry):
                contribute_link(seed)
            else:
                first_steps(registry)
            return
        chart = drawing.chart
        if needs := needs_of(st.query_params.get("q", "")):
            with shown_refusal(), st.spinner("Comparing meanings …"):
                chart = _with_needs(registry, drawing, needs)
        if drawing.left_out:
            st.info(f"{plural(drawing.left_out, 'expert')} not shown: embedded with a different embedder.")
        st.caption(
            f"{plural(drawing.shown, 'expert')}, placed by the embeddings of their training text. Nearby experts were "
            "trained on similar text. Click a point to open its expert."
        )
        _as_list(registry, seed)
        chosen = st.plotly_chart(chart, on_select="rerun", selection_mode="points", key="map")
        for point in chosen["selection"]["points"]:
            if "customdata" in point:
                st.switch_page(routes.expert(), query_params={"ref": point["customdata"][0]})


def _as_list(registry: Registry, seed: str | None) -> None:
    """Draw the same experts as links, for a keyboard, a screen reader and a finger; closed, it has no content.

    Two hundred links take the browser as long as the map does.
    """
    listing = st.expander("The same experts as a list", key="map-as-list", on_change="rerun")
    if not listing.open:
        return
    with listing:
        found = list_experts(registry, seed=seed, limit=MOST_LISTED)
        newest = {expert.name: expert for expert in found}
        with st.container(key="map-list"):
            for expert in newest.values():
                expert_link(expert)
        if len(found) == MOST_LISTED:
            st.caption(f"The first {MOST_LISTED} versions by name; the catalog lists all of them.")


def _chosen_seed(registry: Registry) -> str | None:
    """Return the chosen seed, or None for all."""
    seeds = [seed.name for seed in list_seeds(registry)]
    if len(seeds) < 2:
        return None
    every = [EVERY_SEED, *seeds]
    return st.selectbox("Seed", every, format_func=lambda name: name or "Every seed", width=220) or None


@dataclass(frozen=True)
class Drawing:
    """The map, its plane and embedder, the number of experts that it shows, and the number that it cannot show."""

    chart: go.Figure
    plane: Plane
    embedder: EmbedderId
    shown: int
    left_out: int


@st.cache_resource(max_entries=MOST_CHARTS, show_spinner="Projecting domains …")
def _chart(_registry: Registry, home: str, seed: str | None, stamp: tuple[int, int, int]) -> Drawing | None:
    """Return the map of the newest versions; None without experts.

    Vectors of different embedders are not comparable, so only the most common embedder is drawn. The result is
    cached until the stamp changes.
    """
    domains = list_domains(_registry, seed=seed)
    if not domains:
        return None
    embedder, count = Counter(domain.embedder for domain in domains).most_common(1)[0]
    shown = [domain for domain in domains if domain.embedder == embedder]
    plane = project(shown)
    return Drawing(figure(shown, plane), plane, embedder, count, len(domains) - count)


def _with_needs(registry: Registry, drawing: Drawing, needs: list[str]) -> go.Figure:
    """Return the map with the needs in the address as stars, if its embedder is the registry's."""
    from registry.domains.embedding import load_embedder

    embedder = load_embedder(registry.embedder)
    if embedder.id != drawing.embedder:
        return drawing.chart
    return with_needs(drawing.chart, drawing.plane.place(embedder.encode(needs)), needs)
