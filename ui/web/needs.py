"""Needs of a visitor, as sentences or files: the expert that fits each of them, and the mix of these experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from composer.estimate import Estimate, estimate
from registry.catalog.queries import Sides, get_seed, search
from registry.home import Registry
from registry.records import ExpertRecord, Hit
from ui.query import closeness, vector_of_sample
from ui.web import routes
from ui.web.components import CARD_WIDTH, STRENGTHS, chip, contribute_link, escaped, expert_link, passage_html
from ui.web.recipes import default_name
from ui.web.run_words import roughly
from ui.wording.display import plural, size

MOST_NEEDS = 6
BETWEEN_NEEDS = ";"
NEED_CHARS = 80


@dataclass(frozen=True)
class Answer:
    """A need, the nearest expert if there is one, and how close it is: "strong", "some" or "none"."""

    need: str
    hit: Hit | None
    closeness: str


def needs_of(query: str) -> list[str]:
    """Return the needs in a query, which semicolons separate; at most MOST_NEEDS."""
    return [need.strip() for need in query.split(BETWEEN_NEEDS) if need.strip()][:MOST_NEEDS]


def answers(registry: Registry, needs: Sequence[str], files: Mapping[str, str], sides: Sides) -> list[Answer]:
    """Return the answer to each need in words, then to each file (its text by name). Raises the errors of `search`."""
    found = [
        _answer(f"“{need}”", search(registry, need, limit=1, passages=1, **sides), True) for need in needs
    ]
    for name, text in list(files.items())[: MOST_NEEDS - len(found)]:
        hits = search(registry, vector_of_sample(registry, text), limit=1, passages=1, **sides)
        found.append(_answer(name, hits, False))
    return found


def _answer(need: str, hits: Sequence[Hit], request: bool) -> Answer:
    hit = hits[0] if hits else None
    return Answer(need, hit, closeness(hit.score, request=request) if hit else "none")


def draw(registry: Registry, found: Sequence[Answer], query: str) -> None:
    """Draw one row per need, and below them the mix of the experts that fit."""
    with st.container(key="answers", horizontal=True):
        for place, answer in enumerate(found):
            with st.container(key=f"row-need-{place}", width=CARD_WIDTH):
                _row(answer)
    experts = {answer.hit.expert.ref: answer.hit.expert for answer in found if answer.hit and _fits(answer)}
    if len(experts) > 1:
        _offer(registry, list(experts.values()))
    elif not experts:
        contribute_link()
    if query:
        with st.container(horizontal=True, horizontal_alignment="center"):
            words = "See your needs on the map of domains"
            st.page_link(
                routes.domain_map(), label=words, icon=":material/scatter_plot:", query_params={"q": query}
            )


def _fits(answer: Answer) -> bool:
    return answer.closeness != "none"


def _row(answer: Answer) -> None:
    need = answer.need if len(answer.need) <= NEED_CHARS else f"{answer.need[:NEED_CHARS]} …"
    if answer.hit is None or not _fits(answer):
        nearest = f" The nearest is {escaped(answer.hit.expert.ref)}." if answer.hit else ""
        st.html(f'<p class="nm-need">{escaped(need)}</p><p class="nm-line">Nothing here fits.{nearest}</p>')
        return
    words, kind = STRENGTHS[answer.closeness]
    st.html(f'<p class="nm-need">{escaped(need)}</p>')
    with st.container(horizontal=True, vertical_alignment="center", key=f"fit-{answer.need}"):
        expert_link(answer.hit.expert)
        st.html(chip(words, kind))
    about = escaped(answer.hit.expert.description)
    st.html(f'<p class="nm-line">{about}</p>{passage_html(answer.hit.passage)}')


def _offer(registry: Registry, experts: Sequence[ExpertRecord]) -> None:
    """Draw the link that composes the experts of the first one's seed, with an estimate."""
    chosen = [expert for expert in experts if expert.seed == experts[0].seed]
    if len(chosen) < 2:
        st.caption("These experts are of different seeds, so they cannot be one mix.")
        return
    forecast = _forecast(registry, chosen)
    refs = ",".join(expert.ref for expert in chosen)
    with st.container(key="offer", horizontal=True, vertical_alignment="center"):
        st.page_link(
            routes.compose(),
            label=f"Compose these {plural(len(chosen), 'expert')}",
            icon=":material/hub:",
            query_params={"seed": chosen[0].seed, "experts": refs},
        )
        licence = forecast.license or "their licences conflict: state why you may combine them"
        time = f"about {roughly(forecast.seconds)}" if forecast.seconds else "less than a minute"
        st.html(
            f'<p class="nm-line">{size(forecast.bytes_written)} of new storage, {time}, {escaped(licence)}</p>'
        )
    if len(chosen) < len(experts):
        st.caption("Experts of other seeds are left out: a mix has one seed.")


def _forecast(registry: Registry, experts: Sequence[ExpertRecord]) -> Estimate:
    from composer.mix.recipe import Recipe

    refs = [expert.ref for expert in experts]
    recipe = Recipe(name=default_name(experts), seed=experts[0].seed, experts=refs)
    return estimate(registry, get_seed(registry, recipe.seed), experts, recipe.model_dump(mode="json"))
