"""The playground's settings: the active experts, the sampling, and the form of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from registry.records import MixRecord
from ui.web import models, readings
from ui.web.components import label
from ui.web.form import Form
from ui.web.token_view import colour

if TYPE_CHECKING:
    from composer.generation.sampling import Sampling

MOST_TOKENS = 1024
SYSTEM_CHARS = 4_000
SHARED_CHARS = 1_500  # a longer text is not in the address
STOP_CHARS = 400
TEXT, CHAT = "Text", "Chat"


@dataclass(frozen=True)
class Knobs:
    """The active experts, the sampling settings, and in a chat the system prompt and the template's expert."""

    active: Sequence[str]
    length: int
    temperature: float
    top_p: float
    top_k: int
    random_seed: int
    stop: tuple[str, ...]
    chat: bool
    system: str
    template: str | None

    def sampling(self) -> Sampling:
        """Return the sampling settings. Raises RecipeError."""
        from composer.generation.sampling import Sampling

        return Sampling(self.length, self.temperature, self.top_p, self.top_k, self.random_seed, self.stop)


def draw(form: Form, mix: MixRecord) -> Knobs:
    """Draw all settings."""
    mode = st.segmented_control(
        "Form",
        [TEXT, CHAT],
        required=True,
        help="Continue a text, or reply to messages by the chat template.",
        **form.field("form", TEXT, allowed=(TEXT, CHAT)),
    )
    system, template = _conversation(form, mix) if mode == CHAT else ("", None)
    active = choose_experts(mix)
    st.subheader("Sampling", anchor=False)
    temperature = st.slider(
        "Temperature",
        0.0,
        1.5,
        step=0.1,
        help="0 always picks the most likely token.",
        **form.field("temperature", 0.8, read=float, allowed=_between(0.0, 1.5)),
    )
    length = st.slider(
        "Maximum tokens",
        8,
        MOST_TOKENS,
        step=8,
        **form.field("length", 96, read=int, allowed=range(8, MOST_TOKENS + 1, 8)),
    )
    with st.expander("More"):
        top_p = st.slider(
            "Top-p",
            0.05,
            1.0,
            step=0.05,
            help="The fewest tokens whose probabilities sum to it.",
            **form.field("top_p", 1.0, read=float, allowed=_between(0.05, 1.0)),
        )
        top_k = st.number_input(
            "Top-k",
            0,
            1_000,
            help="This many of the most likely tokens; 0 is all.",
            **form.field("top_k", 0, read=int, allowed=range(1_001)),
        )
        stop = st.text_area(
            "Stop strings",
            height=80,
            max_chars=STOP_CHARS,
            help="One per line; each ends the text.",
            **form.field("stop", "", allowed=lambda text: len(text) <= STOP_CHARS),
        )
        random_seed = st.number_input(
            "Random seed",
            0,
            2**32 - 1,
            help="The same number gives the same text.",
            **form.field("random_seed", 0, read=int, allowed=range(2**32)),
        )
    if st.button("Release models", icon=":material/memory:", help="Frees the memory of the open models."):
        models.release()
        readings.release()
        st.toast("Models released.")
    stops = tuple(line for line in (stop or "").splitlines() if line)
    chat = mode == CHAT
    return Knobs(active, length, temperature, top_p, top_k, random_seed, stops, chat, system, template)


def _between(lowest: float, highest: float) -> Callable[[float], bool]:
    return lambda value: lowest <= value <= highest


def _conversation(form: Form, mix: MixRecord) -> tuple[str, str | None]:
    """Draw the settings of a chat; return the system prompt and the expert whose template is used."""
    system = st.text_area(
        "System prompt",
        height=80,
        max_chars=SYSTEM_CHARS,
        **form.field("system", "", shared_chars=SHARED_CHARS, allowed=lambda text: len(text) <= SYSTEM_CHARS),
    )
    template = st.selectbox(
        "Chat template of",
        ["", *mix.experts],
        format_func=lambda ref: ref or "the seed, or else the experts",
        help="The template writes the messages as the text that the model was trained on.",
        **form.field("template", "", allowed=mix.experts),
    )
    return (system or "").strip(), template or None


def choose_experts(mix: MixRecord) -> list[str]:
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
