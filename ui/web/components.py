"""Shared building blocks of the pages. Text by contributors is escaped here, in one place."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from registry.records import ExpertRecord, MixRecord
from ui.web import routes
from ui.wording.display import cosine, parameters, printable

CARD_WIDTH = 350
MARKDOWN_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def escaped(text: object, *, lines: bool = False) -> str:
    """Escape text for HTML and make hidden characters visible."""
    return html.escape(printable(text, lines=lines))


def label(text: object) -> str:
    """Escape text for a widget's label, which Streamlit renders as Markdown."""
    return MARKDOWN_PUNCTUATION.sub(r"\\\1", printable(text))


def page_title(words: str, subject: str = "", version: str = "") -> None:
    """Draw the page's title: its subject, such as a name with its version in grey, or else the words.

    The title of the browser's tab is both: "law@1 · Expert · nexusmix".
    """
    tab = [f"{subject}{version}", words] if subject else [words]
    st.set_page_config(page_title=printable(" · ".join([*tab, "nexusmix"])))
    shown = label(subject) + (f" :gray[{label(version)}]" if version else "")
    st.title(shown if subject else words, anchor=False)


def chip(text: object, kind: str = "") -> str:
    """A small rounded label (HTML); `kind` is a style class: "", "anchored", "warning", "running", "good" or "bad"."""
    return f'<span class="nm-chip {kind}">{escaped(text)}</span>'


def facts(expert: ExpertRecord) -> str:
    """An expert's chips: seed, size, licence, and whether it is anchored or withdrawn."""
    marks = [chip(expert.seed), chip(f"{parameters(expert.parameters)} params"), chip(expert.license)]
    if expert.anchored:
        marks.append(chip("⚓ anchored", "anchored"))
    if expert.state != "published":
        marks.append(chip(expert.state, "warning"))
    return f'<div class="nm-facts">{"".join(marks)}</div>'


def score_bar(score: float) -> str:
    """A cosine as a number and a bar; the bar is empty for a negative cosine."""
    width = max(0.0, min(1.0, score)) * 100
    return (
        f'<div class="nm-score" title="cosine similarity"><div class="track">'
        f'<div class="bar" style="width:{width:.0f}%"></div></div>'
        f'<span class="figure">{cosine(score)}</span></div>'
    )


def expert_link(expert: ExpertRecord, **options: Any) -> None:
    """Draw a link to an expert's page: the name, and the version in grey."""
    text = f"{label(expert.name)} :gray[{label(f'@{expert.version}')}]"
    st.page_link(routes.expert(), label=text, query_params={"ref": expert.ref}, **options)


def lineage_link(mix: MixRecord, happened: str, depth: int, *, here: bool = False) -> None:
    """Draw a link to a mix in a tree, `depth` steps below the root; `happened` is the change from its parent."""
    indent = "\u2003" * max(0, depth - 1) + ("└ " if depth else "")
    st.page_link(
        routes.mix(),
        label=f"{indent}{label(mix.ref)} :gray[{label(happened)}]",
        query_params={"ref": mix.ref},
        disabled=here,
    )


def expert_card(expert: ExpertRecord, score: float | None = None) -> None:
    """Draw a card; a click anywhere on it opens the expert's page."""
    with st.container(key=f"card-{expert.ref}", border=True, width=CARD_WIDTH):
        expert_link(expert)
        about = escaped(expert.description) or '<span class="nm-muted">No description.</span>'
        bar = "" if score is None else score_bar(score)
        st.html(f'<p class="nm-about">{about}</p>{facts(expert)}{bar}')


def cards(experts: Sequence[tuple[ExpertRecord, float | None]]) -> None:
    """Draw a grid of cards whose number of columns follows the window's width.

    The style sheet loads a moment after the first cards. Until then, the cards are a wrapping row.
    """
    with st.container(key="cards", horizontal=True):
        for expert, score in experts:
            expert_card(expert, score)


def fact_table(rows: Mapping[str, object]) -> None:
    """Draw names and values side by side; rows with None or an empty value are left out."""
    cells = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>"
        for name, value in rows.items()
        if value not in (None, "")
    )
    st.html(f'<dl class="nm-table">{cells}</dl>')


def empty_state(title: str, text: str, commands: Sequence[str] = ()) -> None:
    """Draw the empty state of a page: the reason, and commands that help."""
    with st.container(border=True):
        st.html(f'<div class="nm-empty"><strong>{escaped(title)}</strong><p>{escaped(text)}</p></div>')
        for command in commands:
            st.code(command, language=None, wrap_lines=True)


def contribute_link(seed: str | None = None) -> None:
    """Draw the way out of a state without experts: a link to the page that contributes one."""
    with st.container(horizontal=True, horizontal_alignment="center"):
        query = {} if seed is None else {"seed": seed}
        st.page_link(
            routes.contribute(), label="Contribute an expert", icon=":material/upload:", query_params=query
        )


def compose_link() -> None:
    """Draw the way out of a state without mixes: a link to the page that composes one."""
    with st.container(horizontal=True, horizontal_alignment="center"):
        st.page_link(routes.compose(), label="Compose a mix", icon=":material/hub:")
