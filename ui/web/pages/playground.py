"""The playground: a mix continues a prompt, optionally next to its seed or another mix, coloured by expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from registry.catalog.queries import list_mixes
from registry.home import Registry
from registry.records import MixRecord
from ui.web import models, routes
from ui.web.components import empty_state, escaped, label
from ui.web.models import Speaker
from ui.web.session import current_registry, refuse, shown_errors, shown_refusal
from ui.web.token_view import block_grid, colour, share_bars, shares, text_html

if TYPE_CHECKING:
    from composer.generation import Token

PROMPT_CHARS = 8_000
MOST_TOKENS = 512
NOTHING, SEED = "", "seed"


@dataclass
class Writing:
    """A prompt and the tokens generated so far, by speaker."""

    prompt: str
    texts: dict[Speaker, list[Token]] = field(default_factory=dict)


@dataclass(frozen=True)
class Knobs:
    """The sampling settings and the active experts."""

    active: Sequence[str]
    temperature: float
    length: int
    random_seed: int


def render() -> None:
    """Draw the page: prompt and texts on the left; mixes, experts and sampling on the right."""
    st.title("Playground", anchor=False)
    with shown_errors():
        registry = current_registry()
        mixes = {mix.ref: mix for mix in list_mixes(registry)}
        if not mixes:
            empty_state(
                "No mixes yet",
                "Compose a mix to generate text with it here.",
                ["nexusmix compose NAME --seed SEED --experts A,B,C"],
            )
            st.page_link(routes.compose(), label="Compose a mix", icon=":material/hub:")
            return
        desk, panel = st.columns([7, 3], gap="large")
        with panel, st.container(key="numbers"):
            mix, speakers = _choose(mixes)
            knobs = _knobs(mix)
        hues = list(
            dict.fromkeys(ref for who in speakers if not who.is_seed for ref in mixes[who.name].experts)
        )
        with desk:
            _desk(registry, speakers, knobs, hues)


def _choose(mixes: Mapping[str, MixRecord]) -> tuple[MixRecord, list[Speaker]]:
    """Return the mix in the address, or the newest one, and the speakers: the mix and the model to compare."""
    refs = sorted(mixes, key=lambda ref: mixes[ref].created_at, reverse=True)
    given = (st.query_params.get("mix"), st.query_params.get("beside", NOTHING))
    if st.session_state.get("played_address") != given:  # the user opened or edited the address
        if given[0] in mixes:
            st.session_state["played"] = given[0]
        st.session_state["beside"] = given[1]
    if st.session_state.get("played") not in mixes:
        st.session_state["played"] = refs[0]
    mix = mixes[st.selectbox("Mix", refs, key="played", persist_state="session")]
    beside = [NOTHING, SEED, *(ref for ref in refs if ref != mix.ref)]
    if st.session_state.get("beside") not in beside:
        st.session_state["beside"] = NOTHING
    names = {NOTHING: "Nothing", SEED: f"Its seed, {mix.seed}"}
    other = st.selectbox(
        "Compare with",
        beside,
        key="beside",
        persist_state="session",
        format_func=lambda choice: names.get(choice, choice),
        help="Continues the same prompt with the same sampling settings.",
    )
    st.session_state["played_address"] = (mix.ref, other)
    st.query_params.from_dict({"mix": mix.ref, **({"beside": other} if other else {})})
    speakers = [Speaker(mix.ref)]
    if other:
        speakers.append(Speaker(mix.seed, is_seed=True) if other == SEED else Speaker(other))
    return mix, speakers


def _knobs(mix: MixRecord) -> Knobs:
    active = _experts(mix)
    st.subheader("Sampling", anchor=False)
    temperature = st.slider("Temperature", 0.0, 1.5, 0.8, 0.1, help="0 always picks the most likely token.")
    length = st.slider("Maximum tokens", 8, MOST_TOKENS, 96, 8)
    random_seed = st.number_input("Random seed", 0, 2**32 - 1, 0, help="The same number gives the same text.")
    if st.button("Release models", icon=":material/memory:", help="Frees the memory of the open models."):
        models.release()
        st.toast("Models released.")
    return Knobs(active, temperature, length, random_seed)


def _experts(mix: MixRecord) -> list[str]:
    """Draw a toggle per expert; return the active experts."""
    st.subheader("Experts", anchor=False)
    active = []
    for place, ref in enumerate(mix.experts):
        with st.container(key=f"mask-{place}", horizontal=True, vertical_alignment="center", gap="small"):
            st.html(f'<span class="nm-dot" style="background:{colour(place)}"></span>', width="content")
            if st.toggle(label(ref), value=True, key=f"active-{mix.ref}-{ref}"):
                active.append(ref)
    if not active:
        st.warning("Keep at least one expert active.", icon=":material/block:")
    elif len(active) < len(mix.experts):
        st.caption(
            "Masked experts get no tokens. Masking is not removal: their share of the averaged trunk stays. "
            "To remove an expert completely, use Remove on the mix's page."
        )
    return active


def _desk(registry: Registry, speakers: list[Speaker], knobs: Knobs, hues: list[str]) -> None:
    """Draw the prompt, and below it each speaker's text."""
    prompt = st.text_area(
        "Prompt",
        key="prompt",
        persist_state="session",
        height=120,
        max_chars=PROMPT_CHARS,
        placeholder="Enter a text for the mix to continue, for example: def fibonacci(n):",
    )
    below = st.container()
    with st.container(horizontal=True):
        wanted = st.button(
            "Generate",
            type="primary",
            icon=":material/stylus_note:",
            # Not disabled for an empty prompt: Streamlit sends the text only when the text area loses focus.
            disabled=not knobs.active,
        )
        stop = st.empty()
    above = st.container()
    columns = st.columns(len(speakers), gap="medium")
    places = {}
    for who, column in zip(speakers, columns, strict=True):
        with column:
            _by(who)
            places[who] = st.empty()
    if wanted and not (prompt or "").strip():
        refuse("Enter a prompt first.", below)
    elif wanted:
        # Any click reruns the script and so stops the generation; this button does nothing else.
        stop.button("Stop", icon=":material/stop:")
        writing = st.session_state["writing"] = Writing(prompt, {who: [] for who in speakers})
        with shown_refusal(below):
            _write(registry, writing, knobs, hues, places)
        stop.empty()
    with above:
        block = _block(_texts(speakers))
    _show(speakers, places, hues, block)


def _by(who: Speaker) -> None:
    """Draw the name of the column's speaker; a mix links to its page."""
    title = f"**{label(who.name)}**" + (" :gray[the seed]" if who.is_seed else "")
    with st.container(key=f"by-{who.name}-{who.is_seed}"):
        st.page_link(routes.mix(), label=title, query_params={"ref": who.name}, disabled=who.is_seed)


def _write(
    registry: Registry,
    writing: Writing,
    knobs: Knobs,
    hues: Sequence[str],
    places: Mapping[Speaker, DeltaGenerator],
) -> None:
    """Let the speakers generate in turns, and show each token as it arrives."""
    from composer.generation.sampling import Sampling

    for place in places.values():
        place.html(text_html(writing.prompt, [], hues, writing=True))
    stream = models.write(
        registry,
        list(places),
        writing.prompt,
        Sampling(knobs.length, knobs.temperature, random_seed=knobs.random_seed),
        active_experts=knobs.active,
    )
    with closing(stream):  # a click stops this script, and the models are unlocked at once
        for who, token in stream:
            writing.texts[who].append(token)
            places[who].html(text_html(writing.prompt, writing.texts[who], hues, writing=True))


def _texts(speakers: Sequence[Speaker]) -> dict[Speaker, list[Token]]:
    """Return the newest texts of the chosen speakers."""
    writing: Writing | None = st.session_state.get("writing")
    return {who: writing.texts[who] for who in speakers if writing and who in writing.texts}


def _show(
    speakers: Sequence[Speaker],
    places: Mapping[Speaker, DeltaGenerator],
    hues: Sequence[str],
    block: int | None,
) -> None:
    """Draw the texts, coloured by all blocks or by one, or a placeholder."""
    texts = _texts(speakers)
    for who, place in places.items():
        if who not in texts:
            said = "Generated text appears here" + (
                "." if who.is_seed else ", each token in its expert's colour."
            )
            place.html(f'<div class="nm-written empty">{said}</div>')
        elif not texts[who]:
            place.html(f'<div class="nm-written empty">{escaped(who)} ended at once, without any text.</div>')
        else:
            with place.container():
                _text(who, st.session_state["writing"].prompt, texts[who], hues, block)


def _text(who: Speaker, prompt: str, tokens: Sequence[Token], hues: Sequence[str], block: int | None) -> None:
    if block is not None and block >= len(tokens[0].blocks):  # another mix may have fewer
        block = None
    st.html(text_html(prompt, tokens, hues, block=block))
    if who.is_seed:
        return
    known = [ref for ref in hues if ref in tokens[0].experts]
    st.html(share_bars(shares(tokens, known, block), hues))
    if st.toggle(
        "Every block", key=f"grid-{who}", help="Show the expert that each block chose for each token."
    ):
        st.html(block_grid(tokens, hues))


def _block(texts: Mapping[Speaker, Sequence[Token]]) -> int | None:
    """Return the block whose choices are shown, from 0; None for the shares over all blocks."""
    blocks = max((len(tokens[0].blocks) for tokens in texts.values() if tokens), default=0)
    if blocks < 2:
        return None
    chosen = st.select_slider(
        "Coloured by",
        range(blocks + 1),
        key="played_block",
        format_func=lambda block: f"block {block}" if block else "all blocks",
    )
    return chosen - 1 if chosen else None
