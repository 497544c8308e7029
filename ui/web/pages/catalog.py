"""The catalog page: every expert as a card, with search by one need, by several, or by a sample of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from registry.catalog.favourites import starred
from registry.catalog.queries import (
    MAX_QUERY_CHARS,
    Order,
    Sides,
    count_experts,
    list_licenses,
    list_seeds,
    page_experts,
    search,
)
from registry.home import Registry
from registry.records import ExpertRecord
from ui.query import closeness, vector_of_sample
from ui.web.components import Match, cards, contribute_link, empty_state, label, page_title
from ui.web.needs import MOST_NEEDS, answers, draw, needs_of
from ui.web.session import current_registry, first_steps, shown_errors, shown_refusal
from ui.wording.display import plural

CARDS_PER_PAGE = 12  # each takes the browser about ten milliseconds
SEARCH_LIMIT = 48
MOST_COUNTED = 12_000  # an exact count of a million experts takes longer than a page of them
SAMPLE_CHARS = 100_000
UPLOAD_MB = 20
HEADING = "What should your model be good at?"
# Parameters from (included) up to (excluded); the names appear in addresses.
SIZES: dict[str, tuple[str, tuple[int, int | None]]] = {
    "tiny": ("below 100 M", (0, 100_000_000)),
    "small": ("100 M to 1 B", (100_000_000, 1_000_000_000)),
    "medium": ("1 to 4 B", (1_000_000_000, 4_000_000_000)),
    "large": ("4 B and more", (4_000_000_000, None)),
}
SIDES = ("seed", "license", "size")
MARKS = {
    "anchored": ("Anchored only", "Experts that use the seed's own trunk. They compose without loss."),
    "starred": ("Favourites only", "Experts that you added to your favourites on their pages."),
    "measured": ("Measured only", "Experts that were measured alone or as part of a mix."),
}
FILTERS = (*SIDES, *MARKS)
ORDERS: dict[Order, str] = {
    "name": "name",
    "newest": "newest first",
    "largest": "largest first",
    "smallest": "smallest first",
}

# Returns at most `limit` of the matching experts, starting at `offset`: reader(limit, offset).
Reader = Callable[[int, int], list[tuple[ExpertRecord, Match | None]]]


def render() -> None:
    """Draw the page: the search row, then the cards."""
    with shown_errors():
        registry = current_registry()
        seeds = [seed.name for seed in list_seeds(registry)]
        page_title("Find an expert", heading=HEADING if seeds else "")
        if not seeds:
            empty_state(
                "This registry is empty",
                "Look at the demo, on text that is already on this machine. Or add a model of your own as the first "
                "seed: experts are fine-tuned from a seed.",
            )
            first_steps(registry)
            return
        choices = {
            "seed": seeds,
            "license": list_licenses(registry),
            "size": list(SIZES),
        }
        _read_address(choices)
        query, sample, files = _search_row(choices)
        sides = _sides(registry)
        needs = needs_of(query)
        if files or len(needs) > 1:
            _write_address()
            with shown_refusal(), st.spinner("Comparing meanings …"):
                draw(registry, answers(registry, needs, files, sides), query)
            return
        found = None
        if query or sample:
            with shown_refusal(), st.spinner("Comparing meanings …"):
                found = _search(registry, query, sample, sides)
        count, read, caption = found or _all(registry, sides)
        pages = max(1, -(-count // CARDS_PER_PAGE))
        st.session_state["page"] = min(st.session_state.get("page", 1), pages)
        _write_address()
        if not count:
            _nothing(sides, seeds)
            return
        st.caption(label(caption))
        _paged_cards(read, pages, starred(registry, "expert"))


def _read_address(choices: Mapping[str, Sequence[str]]) -> None:
    """Start from the search in the address; later the widgets' own state wins, also after coming back."""
    given = st.query_params.to_dict()
    if "q" in given:
        st.session_state.setdefault("q", given["q"])
    for name, values in choices.items():
        if given.get(name) in values:
            st.session_state.setdefault(name, given[name])
        if st.session_state.get(name) not in values:  # the last expert of a licence may have been withdrawn
            st.session_state[name] = None
    for name in MARKS:
        st.session_state.setdefault(name, given.get(name) == "yes")
    st.session_state.setdefault("order", given["order"] if given.get("order") in ORDERS else "name")
    if given.get("page", "").isdecimal():
        st.session_state.setdefault("page", max(1, int(given["page"])))


def _write_address() -> None:
    """Keep the search in the address, so that it can be shared and reloaded."""
    page = st.session_state.get("page", 1)
    search = {
        "q": st.session_state.get("q"),
        **{name: st.session_state.get(name) for name in SIDES},
        **{name: "yes" for name in MARKS if st.session_state.get(name)},
        "order": order if (order := st.session_state.get("order")) != "name" else "",
        "page": str(page) if page > 1 else "",
    }
    st.query_params.from_dict({name: value for name, value in search.items() if value})


def _search_row(choices: Mapping[str, Sequence[str]]) -> tuple[str, str, dict[str, str]]:
    """Draw the search row; return the query, the pasted sample, and the text of uploaded files by name."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = st.text_input(
            "Search by meaning",
            key="q",
            persist_state="session",
            max_chars=MAX_QUERY_CHARS,
            label_visibility="collapsed",
            placeholder="prove a theorem; parse a JSON file; C++ templates",
            icon=":material/search:",
            on_change=_forget,
            args=("sample",),
        )
        chosen = sum(bool(st.session_state.get(name)) for name in FILTERS)
        title = f"Filters · {chosen}" if chosen else "Filters"
        with st.popover(title, icon=":material/tune:", width="content"):
            _filters(choices)
        with st.popover("Paste a sample", icon=":material/content_paste:", width="content"):
            sample = st.text_area(
                "Sample of your text",
                key="sample",
                persist_state="session",
                height=180,
                max_chars=SAMPLE_CHARS,
                placeholder="A few paragraphs, a source file, some letters …",
                on_change=_forget,
                args=("q",),
                help="The sample is embedded and compared with the experts' domains. It is not stored.",
            )
            uploaded = st.file_uploader(
                "Or files of your text; each is a need",
                accept_multiple_files=True,
                max_upload_size=UPLOAD_MB,
                key="sample files",
            )
            # Leaving the text area submits it already, but people expect a button.
            st.button("Find similar experts", type="primary", width="stretch")
    texts = {each.name: each.read(SAMPLE_CHARS).decode(errors="replace") for each in uploaded[:MOST_NEEDS]}
    files = {name: text for name, text in texts.items() if text.strip()}
    # The browser's limit alone binds nobody.
    return (query or "")[:MAX_QUERY_CHARS].strip(), (sample or "")[:SAMPLE_CHARS].strip(), files


def _filters(choices: Mapping[str, Sequence[str]]) -> None:
    """Draw one control per filter; an empty control does not filter."""
    names: dict[str, tuple[str, str, Callable[[str], str]]] = {
        "seed": ("Seed", "Every seed", str),
        "license": ("Licence", "Every licence", str),
        "size": ("Size", "Every size", lambda size: f"{SIZES[size][0]} parameters"),
    }
    for key, (title, every, words) in names.items():
        st.selectbox(
            title,
            list(choices[key]),
            index=None,
            key=key,
            persist_state="session",
            placeholder=every,
            format_func=words,
            on_change=_first_page,
        )
    for key, (title, about) in MARKS.items():
        st.toggle(title, key=key, persist_state="session", help=about, on_change=_first_page)
    st.selectbox(
        "Sort by",
        list(ORDERS),
        key="order",
        persist_state="session",
        format_func=ORDERS.__getitem__,
        on_change=_first_page,
    )
    is_open = not any(st.session_state.get(name) for name in FILTERS)
    st.button("Clear", on_click=_clear, disabled=is_open, width="stretch")


def _clear() -> None:
    for name in FILTERS:
        st.session_state[name] = None if name in SIDES else False
    _first_page()


def _sides(registry: Registry) -> Sides:
    """Return the filters as arguments of the catalog's queries."""
    state = st.session_state
    size = state.get("size")
    return {
        "seed": state.get("seed"),
        "license": state.get("license"),
        "parameters": None if size is None else SIZES[size][1],
        "anchored": True if state.get("anchored") else None,
        "measured": True if state.get("measured") else None,
        "starred_by": registry.actor.name if state.get("starred") else None,
    }


def _nothing(sides: Sides, seeds: Sequence[str]) -> None:
    """Draw the empty state: no expert at all, none of the seed, or none that matches the filters."""
    if any(value is not None for name, value in sides.items() if name != "seed"):
        empty_state("No expert matches these filters", "Relax a filter, or clear them all.")
        with st.container(horizontal=True, horizontal_alignment="center"):
            st.button("Clear the filters", on_click=_clear)
        return
    seed = sides["seed"]
    empty_state(
        "No experts yet",
        "Nobody has contributed an expert" + (f" of the seed {seed}." if seed else "."),
    )
    contribute_link(seed or seeds[0])


def _forget(other: str) -> None:
    """Keep only the latest search: a new query clears the sample, a new sample clears the query."""
    st.session_state[other] = ""
    _first_page()


def _first_page() -> None:
    st.session_state["page"] = 1


def _search(registry: Registry, query: str, sample: str, sides: Sides) -> tuple[int, Reader, str]:
    """Return the number of experts found, a reader of one page of them, and the caption above them."""
    what = vector_of_sample(registry, sample) if sample else query
    hits = search(registry, what, limit=SEARCH_LIMIT, **sides)
    of = "your sample" if sample else f"“{query}”"
    found: list[tuple[ExpertRecord, Match | None]] = [
        (hit.expert, Match(hit.score, closeness(hit.score, request=not sample), hit.passage)) for hit in hits
    ]
    close = any(match and match.closeness != "none" for _, match in found)
    caption = f"{'' if close else 'Nothing here fits. '}Nearest to {of} first, by text and name"
    return len(found), lambda limit, offset: list(found[offset : offset + limit]), caption


def _all(registry: Registry, sides: Sides) -> tuple[int, Reader, str]:
    """Return the same for all experts that match the filters."""
    count = count_experts(registry, at_most=MOST_COUNTED, **sides)
    order: Order = st.session_state["order"]

    # Cursors of the pages seen so far, so that the next page takes the time of the first.
    asked = (sides, order)
    known, cursors = st.session_state.setdefault("cursors", (asked, {0: None}))
    if known != asked:
        cursors = {0: None}
        st.session_state["cursors"] = (asked, cursors)

    def read(limit: int, offset: int) -> list[tuple[ExpertRecord, Match | None]]:
        nearest = max(seen for seen in cursors if seen <= offset)
        skip = offset - nearest
        page = page_experts(registry, order=order, limit=limit, cursor=cursors[nearest], skip=skip, **sides)
        if page.next is not None:
            cursors[offset + limit] = page.next
        return [(each, None) for each in page.experts]

    more = " or more" if count == MOST_COUNTED else ""
    return (
        count,
        read,
        f"{plural(count, 'expert')}{more}, {'sorted by name' if order == 'name' else ORDERS[order]}",
    )


def _paged_cards(read: Reader, pages: int, favourites: frozenset[str]) -> None:
    place = st.container()
    page = 1
    if pages > 1:
        with st.container(horizontal=True, horizontal_alignment="center"):
            page = st.pagination(pages, key="page", persist_state="session")
    with place:
        cards(read(CARDS_PER_PAGE, (page - 1) * CARDS_PER_PAGE), favourites)
