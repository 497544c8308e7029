"""Pieces that several pages are built from. Whatever somebody else wrote is escaped here, once."""

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
    """Text for HTML: inert, with hidden characters made visible."""
    return html.escape(printable(text, lines=lines))


def label(text: object) -> str:
    """Text for a widget's label, which Streamlit reads as Markdown: every character stands for itself."""
    return MARKDOWN_PUNCTUATION.sub(r"\\\1", printable(text))


def chip(text: object, kind: str = "") -> str:
    """A small rounded mark; `kind` is "", "anchored" or "warning"."""
    return f'<span class="nm-chip {kind}">{escaped(text)}</span>'


def facts(expert: ExpertRecord) -> str:
    """An expert's marks: seed, size, licence, anchored or not, withdrawn."""
    marks = [chip(expert.seed), chip(f"{parameters(expert.parameters)} params"), chip(expert.license)]
    if expert.anchored:
        marks.append(chip("⚓ anchored", "anchored"))
    if expert.withdrawn is not None:
        marks.append(chip("withdrawn", "warning"))
    return f'<div class="nm-facts">{"".join(marks)}</div>'


def score_bar(score: float) -> str:
    """A cosine as a figure and a bar; a negative one has no bar."""
    width = max(0.0, min(1.0, score)) * 100
    return (
        f'<div class="nm-score" title="cosine similarity"><div class="track">'
        f'<div class="bar" style="width:{width:.0f}%"></div></div>'
        f'<span class="figure">{cosine(score)}</span></div>'
    )


def expert_link(expert: ExpertRecord, **options: Any) -> None:
    """A link to an expert's page: its name, and its version in a lighter colour."""
    text = f"{label(expert.name)} :gray[{label(f'@{expert.version}')}]"
    st.page_link(routes.expert(), label=text, query_params={"ref": expert.ref}, **options)


def lineage_link(mix: MixRecord, happened: str, depth: int, *, here: bool = False) -> None:
    """A link to a mix in a tree: how it came from the one above it, `depth` steps from the first."""
    indent = "\u2003" * max(0, depth - 1) + ("└ " if depth else "")
    st.page_link(
        routes.mix(),
        label=f"{indent}{label(mix.ref)} :gray[{label(happened)}]",
        query_params={"ref": mix.ref},
        disabled=here,
    )


def expert_card(expert: ExpertRecord, score: float | None = None) -> None:
    """A card that opens the expert's page wherever it is clicked."""
    with st.container(key=f"card-{expert.ref}", border=True, width=CARD_WIDTH):
        expert_link(expert)
        about = escaped(expert.description) or '<span class="nm-muted">No description.</span>'
        bar = "" if score is None else score_bar(score)
        st.html(f'<p class="nm-about">{about}</p>{facts(expert)}{bar}')


def cards(experts: Sequence[tuple[ExpertRecord, float | None]]) -> None:
    """A grid of cards that folds with the width of the window.

    Its shape before the style sheet is there, which arrives a moment after the first cards, is a row that wraps.
    """
    with st.container(key="cards", horizontal=True):
        for expert, score in experts:
            expert_card(expert, score)


def fact_table(rows: Mapping[str, object]) -> None:
    """Names and values side by side; absent values are left out."""
    cells = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>"
        for name, value in rows.items()
        if value not in (None, "")
    )
    st.html(f'<dl class="nm-table">{cells}</dl>')


def empty_state(title: str, text: str, commands: Sequence[str] = ()) -> None:
    """What a page shows when it has nothing to show: why, and what to do about it."""
    with st.container(border=True):
        st.html(f'<div class="nm-empty"><strong>{escaped(title)}</strong><p>{escaped(text)}</p></div>')
        for command in commands:
            st.code(command, language=None, wrap_lines=True)
