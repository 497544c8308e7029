"""Shared building blocks of the pages. Text by contributors is escaped here, in one place."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from registry.names import name_key
from registry.records import ExpertRecord, MixRecord
from ui.web import routes
from ui.wording.display import cosine, parameters, printable

CARD_WIDTH = 350
PASSAGE_CHARS = 150
# The words and the chip of each closeness of `ui.query.closeness`.
STRENGTHS = {
    "strong": ("strong match", "good"),
    "some": ("some match", ""),
    "none": ("no match", "warning"),
}
MARKDOWN_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def escaped(text: object, *, lines: bool = False) -> str:
    """Escape text for HTML and make hidden characters visible."""
    return html.escape(printable(text, lines=lines))


def label(text: object) -> str:
    """Escape text for a widget's label, which Streamlit renders as Markdown."""
    return MARKDOWN_PUNCTUATION.sub(r"\\\1", printable(text))


def page_title(words: str, subject: str = "", version: str = "", *, heading: str = "") -> None:
    """Draw the page's title: its subject, such as a name with its version in grey, or the heading, or the words.

    The title of the browser's tab is the subject and the words: "law@1 · Expert · nexusmix".
    """
    tab = [f"{subject}{version}", words] if subject else [words]
    st.set_page_config(page_title=printable(" · ".join([*tab, "nexusmix"])))
    shown = label(subject) + (f" :gray[{label(version)}]" if version else "")
    st.title(shown if subject else heading or words, anchor=False)


def chip(text: object, kind: str = "") -> str:
    """A small rounded label (HTML); `kind` is a style class: "", "anchored", "warning", "running", "good" or "bad"."""
    return f'<span class="nm-chip {kind}">{escaped(text)}</span>'


def facts(expert: ExpertRecord, *, starred: bool = False) -> str:
    """An expert's chips: seed, size, licence, and whether it is a favourite, anchored or withdrawn."""
    marks = [
        *([chip("★ favourite", "good")] if starred else []),
        chip(expert.seed),
        chip(f"{parameters(expert.parameters)} params"),
        chip(expert.license),
    ]
    if expert.anchored:
        marks.append(chip("⚓ anchored", "anchored"))
    if expert.state != "published":
        marks.append(chip(expert.state, "warning"))
    return f'<div class="nm-facts">{"".join(marks)}</div>'


def score_bar(score: float, closeness: str = "") -> str:
    """A score as a bar, and as words for its closeness if that is given, or else a number.

    The bar is empty for a negative score.
    """
    width = max(0.0, min(1.0, score)) * 100
    words = STRENGTHS[closeness][0] if closeness else cosine(score)
    return (
        f'<div class="nm-score {closeness}" title="cosine similarity {cosine(score)}"><div class="track">'
        f'<div class="bar" style="width:{width:.0f}%"></div></div>'
        f'<span class="figure">{words}</span></div>'
    )


def passage_html(passage: str | None) -> str:
    """The start of the passage that matched (HTML); empty without one."""
    if not passage:
        return ""
    short = textwrap.shorten(passage, PASSAGE_CHARS, placeholder=" …")
    return f'<blockquote class="nm-passage">{escaped(short)}</blockquote>'


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


@dataclass(frozen=True)
class Match:
    """How an expert matches a search: its score, the closeness in one word, and the passage that matched."""

    score: float
    closeness: str
    passage: str | None


def expert_card(expert: ExpertRecord, match: Match | None = None, *, starred: bool = False) -> None:
    """Draw a card; a click anywhere on it opens the expert's page."""
    with st.container(key=f"card-{expert.ref}", border=True, width=CARD_WIDTH):
        expert_link(expert)
        about = escaped(expert.description) or '<span class="nm-muted">No description.</span>'
        found = passage_html(match.passage) + score_bar(match.score, match.closeness) if match else ""
        st.html(f'<p class="nm-about">{about}</p>{facts(expert, starred=starred)}{found}')


def cards(experts: Sequence[tuple[ExpertRecord, Match | None]], favourites: Container[str] = ()) -> None:
    """Draw a grid of cards whose number of columns follows the window's width; `favourites` are keys of names."""
    with st.container(key="cards", horizontal=True):
        for expert, match in experts:
            expert_card(expert, match, starred=name_key(expert.name) in favourites)


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
