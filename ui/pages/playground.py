"""The playground: a prompt goes on as a mix writes it, each token in the colour of its expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from registry.catalog import list_mixes
from registry.home import Registry
from registry.records import MixRecord
from ui import models, routes
from ui.components import empty_state, escaped, label
from ui.session import current_registry, shown_errors
from ui.token_view import colour, share_bars, shares, text_html

if TYPE_CHECKING:
    from composer.generate import Token

PROMPT_CHARS = 8_000
MOST_TOKENS = 512


@dataclass
class Writing:
    """What was asked for and what has come of it so far."""

    mix: str
    prompt: str
    tokens: list[Token] = field(default_factory=list)


def render() -> None:
    """Draw the page: prompt and text on the left, the mix and its experts on the right."""
    st.title("Playground", anchor=False)
    with shown_errors():
        registry = current_registry()
        mixes = {mix.ref: mix for mix in list_mixes(registry)}
        if not mixes:
            empty_state(
                "There is no mix to play with",
                "Compose one; it writes here as soon as it is published.",
                ["nexusmix compose NAME --seed SEED --experts A,B,C"],
            )
            st.page_link(routes.compose(), label="Compose a mix", icon=":material/hub:")
            return
        desk, panel = st.columns([5, 3], gap="large")
        with panel, st.container(key="numbers"):
            mix = _choose(mixes)
            active = _experts(mix)
            bars = st.empty()
            temperature, length, random_seed = _knobs()
        with desk:
            prompt = st.text_area(
                "Prompt",
                key="prompt",
                persist_state="session",
                height=120,
                max_chars=PROMPT_CHARS,
                placeholder="Begin a text, and the mix goes on: def fibonacci(n):",
            )
            wanted = st.button(
                "Write on",
                type="primary",
                icon=":material/stylus_note:",
                disabled=not active or not (prompt or "").strip(),
            )
            place = st.empty()
        if wanted:
            writing = st.session_state["writing"] = Writing(mix.ref, prompt)
            with place.container():
                _write(registry, mix, writing, active, temperature, length, random_seed)
        _show(mix, place, bars)


def _choose(mixes: dict[str, MixRecord]) -> MixRecord:
    """The mix of the address, or the one that was published last."""
    refs = sorted(mixes, key=lambda ref: mixes[ref].created_at, reverse=True)
    given = st.query_params.get("mix")
    if given in mixes and st.session_state.get("played_address") != given:
        st.session_state["played_address"] = st.session_state["played"] = given
    if st.session_state.get("played") not in mixes:
        st.session_state["played"] = refs[0]
    chosen = mixes[st.selectbox("Mix", refs, key="played", persist_state="session")]
    st.query_params["mix"] = st.session_state["played_address"] = chosen.ref
    st.page_link(routes.mix(), label=f"About {label(chosen.ref)}", query_params={"ref": chosen.ref})
    return chosen


def _experts(mix: MixRecord) -> list[str]:
    """The experts that tokens may be routed to."""
    st.subheader("Experts", anchor=False)
    active = []
    for place, ref in enumerate(mix.experts):
        with st.container(key=f"mask-{place}", horizontal=True, vertical_alignment="center", gap="small"):
            st.html(f'<span class="nm-dot" style="background:{colour(place)}"></span>', width="content")
            if st.toggle(label(ref), value=True, key=f"active-{mix.ref}-{ref}"):
                active.append(ref)
    if not active:
        st.warning("Leave at least one expert active.", icon=":material/block:")
    elif len(active) < len(mix.experts):
        st.caption(
            "Masked experts get no token. Masking is not removal: what they gave to the averaged trunk stays; "
            "remove an expert on the mix's page to be rid of it."
        )
    return active


def _knobs() -> tuple[float, int, int]:
    st.subheader("Sampling", anchor=False)
    temperature = st.slider("Temperature", 0.0, 1.5, 0.8, 0.1, help="0 always takes the likeliest token.")
    length = st.slider("Tokens at most", 8, MOST_TOKENS, 96, 8)
    random_seed = st.number_input("Random seed", 0, 2**32 - 1, 0, help="The same number, the same text.")
    if st.button("Release the model", icon=":material/memory:", help="Frees the memory of open mixes."):
        models.release()
        st.toast("Open mixes were released.")
    return temperature, length, random_seed


def _write(
    registry: Registry,
    mix: MixRecord,
    writing: Writing,
    active: Sequence[str],
    temperature: float,
    length: int,
    random_seed: int,
) -> None:
    """Let the mix write; each token is shown as it comes."""
    with st.spinner("Opening the mix and reading the prompt …"):
        sheet = st.empty()

        def on_token(token: Token) -> None:
            writing.tokens.append(token)
            sheet.html(text_html(writing.prompt, writing.tokens, mix.experts, writing=True))

        models.write(
            registry,
            mix.ref,
            writing.prompt,
            max_new_tokens=length,
            temperature=temperature,
            random_seed=random_seed,
            active_experts=active,
            on_token=on_token,
        )


def _show(
    mix: MixRecord, place: st.delta_generator.DeltaGenerator, bars: st.delta_generator.DeltaGenerator
) -> None:
    """The newest text, as long as its mix is the chosen one."""
    writing: Writing | None = st.session_state.get("writing")
    if writing is None or writing.mix != mix.ref:
        place.html(
            '<div class="nm-written empty">The text appears here, each token in the colour of the expert '
            "that it was routed to.</div>"
        )
        return
    if not writing.tokens:
        place.html(f'<div class="nm-written empty">{escaped(mix.ref)} ended at once: it wrote nothing.</div>')
        return
    place.html(text_html(writing.prompt, writing.tokens, mix.experts))
    bars.html(share_bars(shares(writing.tokens, mix.experts)))
