"""The playground: a mix continues a text or chats, optionally next to its seed or another mix."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from composer.evaluation.comparison import evaluation_of
from registry.catalog.queries import list_mixes
from registry.home import Registry
from registry.records import MixRecord
from ui.web import address, models, routes
from ui.web import knobs as settings
from ui.web.components import compose_link, empty_state, escaped, label, page_title
from ui.web.knobs import Knobs
from ui.web.models import Speaker
from ui.web.quality import short_quality
from ui.web.session import current_registry, refuse, shown_errors, shown_refusal
from ui.web.token_view import block_grid, share_bars, shares, text_html
from ui.wording.display import plural

if TYPE_CHECKING:
    from composer.generation import Token

PROMPT_CHARS = 8_000
NOTHING, SEED = "", "seed"


@dataclass
class Writing:
    """A prompt, and the tokens generated so far and their duration in seconds, by speaker.

    In a chat the prompt is the newest message, and `earlier` are the turns before it.
    """

    prompt: str
    chat: bool
    texts: dict[Speaker, list[Token]]
    seconds: dict[Speaker, float]
    earlier: list[Writing] = field(default_factory=list)

    def text_of(self, who: Speaker) -> str:
        """Return the speaker's text."""
        return "".join(token.text for token in self.texts[who])


def render() -> None:
    """Draw the page: prompt and texts on the left; mixes, experts and sampling on the right."""
    page_title("Playground")
    with shown_errors():
        registry = current_registry()
        mixes = {mix.ref: mix for mix in list_mixes(registry)}
        if not mixes:
            empty_state(
                "No mixes yet",
                "Compose a mix to generate text with it here.",
            )
            compose_link()
            return
        desk, panel = st.columns([7, 3], gap="large")
        with panel, st.container(key="numbers"):
            mix, speakers = _choose(mixes)
            knobs = settings.draw(mix)
        hues = list(
            dict.fromkeys(ref for who in speakers if not who.is_seed for ref in mixes[who.name].experts)
        )
        with desk:
            _desk(registry, speakers, knobs, hues)


def _choose(mixes: Mapping[str, MixRecord]) -> tuple[MixRecord, list[Speaker]]:
    """Return the mix in the address, or the newest one, and the speakers: the mix and the model to compare."""
    refs = sorted(mixes, key=lambda ref: mixes[ref].created_at, reverse=True)
    if given := address.opened():
        if given.get("mix") in mixes:
            st.session_state["played"] = given["mix"]
        st.session_state["beside"] = given.get("beside", NOTHING)
    if st.session_state.get("played") not in mixes:
        st.session_state["played"] = refs[0]
    mix = mixes[st.selectbox("Mix", refs, key="played", persist_state="session")]
    st.caption(label(short_quality(evaluation_of(mix, list(mixes.values()))).capitalize()))
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
    address.write({"mix": mix.ref, **({"beside": other} if other else {})})
    speakers = [Speaker(mix.ref)]
    if other:
        speakers.append(Speaker(mix.seed, is_seed=True) if other == SEED else Speaker(other))
    return mix, speakers


def _desk(registry: Registry, speakers: list[Speaker], knobs: Knobs, hues: list[str]) -> None:
    """Draw the prompt, and below it each speaker's text."""
    if "unsent" in st.session_state:  # a refused message returns to its field
        st.session_state["prompt"] = st.session_state.pop("unsent")
    typed = st.text_area(
        "Message" if knobs.chat else "Prompt",
        key="prompt",
        persist_state="session",
        height=120,
        max_chars=PROMPT_CHARS,
        placeholder="Enter a message, for example: What is a matrix?"
        if knobs.chat
        else "Enter a text for the mix to continue, for example: def fibonacci(n):",
    )
    below = st.container()
    with st.container(horizontal=True):
        wanted = st.button(
            "Send" if knobs.chat else "Generate",
            type="primary",
            icon=":material/send:" if knobs.chat else ":material/stylus_note:",
            # Not disabled for an empty prompt: Streamlit sends the text only when the text area loses focus.
            disabled=not knobs.active,
            on_click=_take if knobs.chat else None,
        )
        stop = st.empty()
        if knobs.chat and _newest(speakers, knobs.chat) is not None:
            st.button("New conversation", icon=":material/add_comment:", on_click=_forget)
    prompt = st.session_state.pop("sent", "") if knobs.chat else typed or ""
    above = st.container()
    columns = st.columns(len(speakers), gap="medium")
    places = {}
    for who, column in zip(speakers, columns, strict=True):
        with column:
            _by(who)
            places[who] = st.empty()
    if wanted and not prompt.strip():
        refuse("Enter a message first." if knobs.chat else "Enter a prompt first.", below)
    elif wanted:
        # Any click reruns the script and so stops the generation; this button does nothing else.
        stop.button("Stop", icon=":material/stop:")
        with shown_refusal(below):
            _write(registry, prompt, knobs, hues, places)
        stop.empty()
    newest = _newest(speakers, knobs.chat)
    with above:
        block = _block([newest.texts.get(who, []) for who in speakers] if newest else [])
    _show(newest, places, hues, block)


def _take() -> None:
    """Move the typed message out of its field, before the page is drawn."""
    st.session_state["sent"] = st.session_state.get("prompt") or ""
    st.session_state["prompt"] = ""


def _forget() -> None:
    st.session_state.pop("writing", None)


def _newest(speakers: Sequence[Speaker], chat: bool) -> Writing | None:
    """Return the newest texts, if they are of this form and of a speaker; a conversation must be of every speaker."""
    writing: Writing | None = st.session_state.get("writing")
    if writing is None or writing.chat != chat:
        return None
    known = [who in writing.texts for who in speakers]
    return writing if (all if chat else any)(known) else None


def _by(who: Speaker) -> None:
    """Draw the name of the column's speaker; a mix links to its page."""
    title = f"**{label(who.name)}**" + (" :gray[the seed]" if who.is_seed else "")
    with st.container(key=f"by-{who.name}-{who.is_seed}"):
        st.page_link(routes.mix(), label=title, query_params={"ref": who.name}, disabled=who.is_seed)


def _write(
    registry: Registry,
    prompt: str,
    knobs: Knobs,
    hues: Sequence[str],
    places: Mapping[Speaker, DeltaGenerator],
) -> None:
    """Let the speakers generate in turns, and show each token as it arrives."""
    before = _newest(list(places), knobs.chat) if knobs.chat else None
    earlier = [*before.earlier, before] if before else []
    writing = Writing(prompt, knobs.chat, {who: [] for who in places}, dict.fromkeys(places, 0.0), earlier)
    for who, place in places.items():
        place.html(_html(writing, who, hues, writing=True))
    try:
        stream = models.write(
            registry,
            {who: _messages(writing, who, knobs.system) if knobs.chat else prompt for who in places},
            knobs.sampling(),
            active_experts=knobs.active,
            template=knobs.template,
        )
        st.session_state["writing"] = writing
        with closing(stream):  # a click stops this script, and the models are unlocked at once
            started = time.perf_counter()
            for who, token in stream:
                writing.seconds[who] += time.perf_counter() - started
                writing.texts[who].append(token)
                places[who].html(_html(writing, who, hues, writing=True))
                started = time.perf_counter()
    except Exception:
        st.session_state["writing"] = before
        if knobs.chat:
            st.session_state["unsent"] = prompt
        raise


def _messages(writing: Writing, who: Speaker, system: str) -> list[dict[str, str]]:
    """Return the speaker's own conversation up to the newest message."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in writing.earlier:
        messages.append({"role": "user", "content": turn.prompt})
        messages.append({"role": "assistant", "content": turn.text_of(who)})
    return [*messages, {"role": "user", "content": writing.prompt}]


def _html(
    newest: Writing, who: Speaker, hues: Sequence[str], *, block: int | None = None, writing: bool = False
) -> str:
    """Return the speaker's text; in a chat all turns, each after its message."""
    gap = "\n\n" if newest.chat else ""
    return "".join(
        text_html(turn.prompt + gap, turn.texts[who], hues, block=block, writing=writing and turn is newest)
        for turn in (*newest.earlier, newest)
    )


def _show(
    newest: Writing | None,
    places: Mapping[Speaker, DeltaGenerator],
    hues: Sequence[str],
    block: int | None,
) -> None:
    """Draw the texts, coloured by all blocks or by one, or a placeholder."""
    for who, place in places.items():
        if newest is None or who not in newest.texts:
            said = "Generated text appears here" + (
                "." if who.is_seed else ", each token in its expert's colour."
            )
            place.html(f'<div class="nm-written empty">{said}</div>')
        elif not newest.texts[who]:
            place.html(f'<div class="nm-written empty">{escaped(who)} ended at once, without any text.</div>')
        else:
            with place.container():
                _text(who, newest, hues, block)


def _text(who: Speaker, newest: Writing, hues: Sequence[str], block: int | None) -> None:
    tokens = newest.texts[who]
    if block is not None and block >= len(tokens[0].blocks):  # another mix may have fewer
        block = None
    st.html(_html(newest, who, hues, block=block))
    speed = len(tokens) / max(newest.seconds[who], 1e-9)
    st.caption(f"{plural(len(tokens), 'token')}, {speed:.1f} tokens/s")
    if who.is_seed:
        return
    known = [ref for ref in hues if ref in tokens[0].experts]
    st.html(share_bars(shares(tokens, known, block), hues))
    if st.toggle(
        "Every block", key=f"grid-{who}", help="Show the expert that each block chose for each token."
    ):
        st.html(block_grid(tokens, hues))


def _block(texts: Sequence[Sequence[Token]]) -> int | None:
    """Return the block whose choices are shown, from 0; None for the shares over all blocks."""
    blocks = max((len(tokens[0].blocks) for tokens in texts if tokens), default=0)
    if blocks < 2:
        return None
    chosen = st.select_slider(
        "Coloured by",
        range(blocks + 1),
        key="played_block",
        format_func=lambda block: f"block {block}" if block else "all blocks",
    )
    return chosen - 1 if chosen else None
