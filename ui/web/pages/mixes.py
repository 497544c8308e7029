"""The mixes page: one card per name with its versions, and the lineage."""

from __future__ import annotations

import streamlit as st

from composer.evaluation.comparison import evaluation_of, gain_kept
from registry.catalog.favourites import starred
from registry.catalog.queries import list_mixes
from registry.names import name_key
from registry.records import MixRecord
from ui.web import routes
from ui.web.components import compose_link, empty_state, escaped, label, lineage_link, page_title
from ui.web.mix_words import children, mix_facts, score_line, step
from ui.web.quality import gain_bar, quality, rival
from ui.web.session import current_registry, shown_errors
from ui.wording.display import plural


def render() -> None:
    """Draw the page: the cards, then the lineage."""
    page_title("Mixes")
    with shown_errors():
        registry = current_registry()
        with st.spinner("Reading the mixes …"):
            mixes = list_mixes(registry)
        if not mixes:
            empty_state(
                "No mixes yet",
                "Choose experts of one seed and compose them into one model.",
            )
            compose_link()
            return
        by_name: dict[str, list[MixRecord]] = {}
        for mix in mixes:
            by_name.setdefault(mix.name, []).append(mix)
        favourites = starred(registry, "mix")
        mine = {name: each for name, each in by_name.items() if name_key(name) in favourites}
        if mine and st.toggle("Favourites only", key="favourite mixes", persist_state="session"):
            by_name = mine
        st.caption(plural(len(by_name), "mix").replace("mixs", "mixes") + ", sorted by name")
        with st.container(key="mixes"):
            for name, versions in by_name.items():
                _card(versions, mixes, starred=name in mine)
        if len(mixes) > 1:
            with st.container(key="mix-actions"):
                st.page_link(routes.workbench(), label="Compare mixes", icon=":material/compare_arrows:")
        _lineage(mixes)


def _card(versions: list[MixRecord], mixes: list[MixRecord], *, starred: bool) -> None:
    """Draw a card with the newest version on top and links to the older ones below."""
    newest = versions[-1]
    with st.container(key=f"mixcard-{newest.name}"):
        st.page_link(
            routes.mix(),
            label=f"{label(newest.name)} :gray[{label(f'@{newest.version}')}]",
            query_params={"ref": newest.ref},
        )
        evaluation = evaluation_of(newest, mixes)
        kept = gain_kept(evaluation) if evaluation else None
        if evaluation and kept is not None:
            words = f"It {quality(evaluation)}. {rival(evaluation)}"
            bar = gain_bar(kept, score_line(evaluation))
        else:
            words, bar = score_line(evaluation), ""
        st.html(f'{mix_facts(newest, starred=starred)}<p class="nm-line">{escaped(words)}</p>{bar}')
        if len(versions) > 1:
            with st.container(horizontal=True, key=f"older-{newest.name}", vertical_alignment="center"):
                st.caption("Earlier versions:", width="content")
                for version in reversed(versions[:-1]):
                    query = {"ref": version.ref}
                    st.page_link(routes.mix(), label=label(f"@{version.version}"), query_params=query)


def _lineage(mixes: list[MixRecord]) -> None:
    """Draw the tree of which mix was made from which; nothing if no mix was made from another."""
    known = {mix.ref: mix for mix in mixes}
    if not any(mix.parent in known for mix in mixes):
        return
    st.subheader("Lineage", anchor=False)
    with st.container(key="lineage", gap=None):
        for mix in mixes:
            if mix.parent not in known and children(mix, mixes):
                lineage_link(mix, "composed", 0)
                _descendants(mix, mixes, 1)


def _descendants(mix: MixRecord, mixes: list[MixRecord], depth: int) -> None:
    for child in children(mix, mixes):
        lineage_link(child, step(mix, child), depth)
        _descendants(child, mixes, depth + 1)
