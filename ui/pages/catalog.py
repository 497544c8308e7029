"""The catalog: every expert as a card, searched by the meaning of a task or of a pasted sample."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from registry.catalog import count_experts, list_experts, list_seeds, search
from registry.home import Registry
from registry.records import ExpertRecord
from ui.components import cards, empty_state, label
from ui.display import plural
from ui.query import CLOSE, vector_of_sample
from ui.session import current_registry, shown_errors

CARDS_PER_PAGE = 24
SEARCH_LIMIT = 48
SAMPLE_CHARS = 100_000
EVERY_SEED = ""

# Reads so many experts (the limit) of those that were found, after the first ones (the offset).
Reader = Callable[[int, int], list[tuple[ExpertRecord, float | None]]]


def render() -> None:
    """Draw the page: the search row, then the cards."""
    with shown_errors():
        registry = current_registry()
        seeds = [seed.name for seed in list_seeds(registry)]
        st.title("Find an expert")
        if not seeds:
            _first_steps()
            return
        _read_address(seeds)
        query, seed, sample = _search_row(seeds)
        with st.spinner("Comparing meanings …" if query or sample else "Reading the catalog …"):
            count, read, caption = _find(registry, query, seed, sample)
        pages = max(1, -(-count // CARDS_PER_PAGE))
        st.session_state["page"] = min(st.session_state.get("page", 1), pages)
        _write_address()
        if not count:
            empty_state(
                "No expert here yet",
                "Nobody has contributed an expert" + (f" of the seed {seed}." if seed else "."),
                [f"nexusmix contribute NAME ./expert --seed {seed or seeds[0]} --license SPDX --data ./text"],
            )
            return
        st.caption(label(caption))
        _paged_cards(read, pages)


def _read_address(seeds: list[str]) -> None:
    """Begin with the search of the address; later the widgets know better, also after coming back."""
    given = st.query_params.to_dict()
    if "q" in given:
        st.session_state.setdefault("q", given["q"])
    if given.get("seed") in seeds:
        st.session_state.setdefault("seed", given["seed"])
    if given.get("page", "").isdecimal():
        st.session_state.setdefault("page", max(1, int(given["page"])))


def _write_address() -> None:
    """Keep the search in the address, so that it can be shared and reloaded."""
    page = st.session_state.get("page", 1)
    search = {
        "q": st.session_state.get("q"),
        "seed": st.session_state.get("seed"),
        "page": str(page) if page > 1 else "",
    }
    st.query_params.from_dict({name: value for name, value in search.items() if value})


def _search_row(seeds: list[str]) -> tuple[str, str | None, str]:
    """The query, the seed and the pasted sample, as they stand."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = st.text_input(
            "Search by meaning",
            key="q",
            persist_state="session",
            placeholder="Describe a task: linear algebra, parse a JSON file, C++ templates …",
            icon=":material/search:",
            on_change=_forget,
            args=("sample",),
        )
        seed = EVERY_SEED
        if len(seeds) > 1:
            seed = st.selectbox(
                "Seed",
                [EVERY_SEED, *seeds],
                key="seed",
                persist_state="session",
                format_func=lambda name: name or "Every seed",
                on_change=_first_page,
                width=180,
            )
        with st.popover("Paste a sample", icon=":material/content_paste:", width="content"):
            sample = st.text_area(
                "Text like the one you want to serve",
                key="sample",
                persist_state="session",
                height=180,
                max_chars=SAMPLE_CHARS,
                placeholder="A few paragraphs, a source file, some letters …",
                on_change=_forget,
                args=("q",),
                help="Its embedding is compared; nothing is stored.",
            )
            # Leaving the text area submits it already; a button is what people look for.
            st.button("Find experts like it", type="primary", width="stretch")
    return (query or "").strip(), seed or None, (sample or "").strip()


def _forget(other: str) -> None:
    """What was asked last counts: a new query clears the sample, a new sample the query."""
    st.session_state[other] = ""
    _first_page()


def _first_page() -> None:
    st.session_state["page"] = 1


def _find(registry: Registry, query: str, seed: str | None, sample: str) -> tuple[int, Reader, str]:
    """How many experts there are to show, how to read a page of them, and the sentence above them."""
    if sample or query:
        what = vector_of_sample(registry, sample) if sample else query
        hits = search(registry, what, seed=seed, limit=SEARCH_LIMIT)
        of = "your sample" if sample else f"“{query}”"
        far = "No close match. " if all(hit.score < CLOSE for hit in hits) else ""
        caption = f"{far}Nearest to {of} first; 1 is the same meaning"
        found = [(hit.expert, hit.score) for hit in hits]
        return len(found), lambda limit, offset: list(found[offset : offset + limit]), caption
    count = count_experts(registry, seed=seed)

    def read(limit: int, offset: int) -> list[tuple[ExpertRecord, float | None]]:
        return [(each, None) for each in list_experts(registry, seed=seed, limit=limit, offset=offset)]

    return count, read, plural(count, "expert") + " by name"


def _paged_cards(read: Reader, pages: int) -> None:
    place = st.container()
    page = 1
    if pages > 1:
        with st.container(horizontal=True, horizontal_alignment="center"):
            page = st.pagination(pages, key="page", persist_state="session")
    with place:
        cards(read(CARDS_PER_PAGE, (page - 1) * CARDS_PER_PAGE))


def _first_steps() -> None:
    empty_state(
        "This registry is empty",
        "See the whole journey on text that is already on this machine, or publish a model of your own "
        "as the seed that experts branch from.",
        ["nexusmix demo", "nexusmix seed add NAME ./model --license Apache-2.0"],
    )
