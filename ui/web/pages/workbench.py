"""The workbench: any number of mixes side by side, from their quality down to the routing of each block."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from composer.evaluation.comparison import Comparison, compare
from registry.catalog.queries import list_mixes
from registry.home import Registry
from registry.records import MixRecord
from ui.web import routes
from ui.web.components import compose_link, empty_state, label, page_title
from ui.web.form import Form, names
from ui.web.session import current_registry, queue, shown_errors
from ui.web.workbench import Entry, compose_again, entries, losses, table
from ui.web.workbench_view import gains, overlay, overview, small_multiples, trade_off

MOST_COMPARED = 8
AT_FIRST = 4


def render() -> None:
    """Draw the page: the chosen mixes, then one section per question about them."""
    with st.container(key="back"):
        st.page_link(routes.mixes(), label="Mixes", icon=":material/arrow_back:")
    page_title("Compare mixes")
    with shown_errors():
        registry = current_registry()
        mixes = list_mixes(registry)
        if len(mixes) < 2:
            empty_state("Nothing to compare yet", "Compose two mixes or more, then come back.")
            compose_link()
            return
        chosen = _choose(mixes)
        if not chosen:
            st.caption("Choose at least one mix.")
            return
        found = entries(registry, chosen, mixes)
        scores = compare(chosen, mixes)
        with st.container(key="overview"):
            st.html(overview(found))
        _actions(registry, found, scores)
        _scores(registry, found, scores)
        _routing(found)
        _curves(registry, found)


def _choose(mixes: Sequence[MixRecord]) -> list[MixRecord]:
    """Draw the choice of mixes; return them in the order of the choice. The default is the newest of one seed."""
    known = {mix.ref: mix for mix in mixes}
    newest = sorted(mixes, key=lambda mix: mix.created_at, reverse=True)
    first = [mix.ref for mix in newest if mix.seed == newest[0].seed][:AT_FIRST]
    form = Form("compare")
    field = form.field("mixes", first, read=names, always=True)
    form.set("mixes", [ref for ref in form.value("mixes") if ref in known][:MOST_COMPARED])
    refs = st.multiselect("Mixes", list(known), max_selections=MOST_COMPARED, **field)
    form.write_address()
    return [known[ref] for ref in refs]


def _actions(registry: Registry, found: Sequence[Entry], scores: Comparison) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="mix-actions"):
        st.download_button(
            "CSV",
            table(found, scores),
            "mixes.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
        with st.popover("Compose again with …", icon=":material/edit:", width="content"):
            for entry in found:
                query = compose_again(registry, entry.mix, entry.manifest)
                st.page_link(routes.compose(), label=label(entry.mix.ref), query_params=query)
        if len(found) > 1:
            one, other = (entry.mix for entry in found[:2])
            if one.seed == other.seed:
                query = {"mix": one.ref, "beside": other.ref}
                words = label(f"Read a text with {one.ref} and {other.ref}")
                st.page_link(routes.lens(), label=words, icon=":material/visibility:", query_params=query)


def _scores(registry: Registry, found: Sequence[Entry], scores: Comparison) -> None:
    """Draw the gain by domain. Scores on different text are never compared."""
    st.subheader("Gain by domain", anchor=False)
    refs = [entry.mix.ref for entry in found]
    if scores.rows:
        with st.container(key="gains"):
            st.html(gains(refs, scores))
    else:
        st.caption("None of them was evaluated.")
    for ref, domains in scores.unlike.items():
        st.caption(
            label(f"{ref} was evaluated on different text, so it is not compared: {', '.join(domains)}.")
        )
    missing = [ref for ref in refs if not any(ref in row for row in scores.rows.values())]
    if (missing or scores.unlike) and len({entry.mix.seed for entry in found}) == 1 and len(found) > 1:
        about = "Queues an evaluation of the first mix that also measures the others."
        if st.button("Evaluate all on the same text", icon=":material/monitoring:", help=about):
            queue(registry, "evaluate", {"mix": refs[0], "against": refs[1:]})
    if (chart := trade_off(found, dark=st.context.theme.type == "dark")) is not None:
        st.subheader("Quality against active weights", anchor=False)
        st.altair_chart(chart)


def _routing(found: Sequence[Entry]) -> None:
    routed = [entry for entry in found if (entry.evaluation or {}).get("routing")]
    if not routed:
        return
    st.subheader("Routing by block", anchor=False)
    st.html(small_multiples(routed))


def _curves(registry: Registry, found: Sequence[Entry]) -> None:
    points = losses(registry, found)
    if points:
        st.subheader("Losses", anchor=False)
        st.altair_chart(overlay(points))
