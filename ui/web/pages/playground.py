"""The playground: a mix continues a text or chats, optionally next to its seed or another mix."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
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
from ui.web.form import Form
from ui.web.knobs import SHARED_CHARS, Knobs
from ui.web.models import Speaker
from ui.web.quality import short_quality
from ui.web.readings import mix_reading
from ui.web.session import current_registry, refuse, shown_errors, shown_refusal
from ui.web.token_view import Written, block_grid, choose_block, share_bars, shares, text_html
from ui.web.writing import Writing, messages_of, newest_writing
from ui.wording.display import plural

if TYPE_CHECKING:
    from composer.generation import Token

PROMPT_CHARS = 8_000
PAGE = "playground"
DRAWN_SECONDS = 0.15  # between two drawings of a text that grows
NOTHING, SEED = "", "seed"


def render() -> None:
    """Draw the page: prompt and texts on the left; mixes, experts and sampling on the right."""
    page_title("Playground")
    layout = None
    if st.session_state.pop("unread", False) and "writing" in st.session_state:
        # Stop draws the whole page again. The text ends first, because the rest takes longer.
        layout = _layout()
        _end(layout[1], st.session_state["writing"])
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
        form = Form(PAGE)
        fields, texts, panel = layout or _layout()
        with panel, st.container(key="numbers"):
            mix, speakers = _choose(form, mixes)
            knobs = settings.draw(form, mix)
        hues = list(
            dict.fromkeys(ref for who in speakers if not who.is_seed for ref in mixes[who.name].experts)
        )
        with fields:
            _desk(registry, form, mixes, speakers, knobs, hues, texts)


def _layout() -> tuple[DeltaGenerator, DeltaGenerator, DeltaGenerator]:
    """Return the places of the prompt, the texts and the settings."""
    desk, panel = st.columns([7, 3], gap="large")
    with desk:
        return st.container(), st.empty(), panel


def _end(texts: DeltaGenerator, writing: Writing) -> None:
    """Draw texts without the cursor, as far as they were generated."""
    with texts.container():
        for who, column in zip(writing.texts, st.columns(len(writing.texts), gap="medium"), strict=True):
            with column:
                _by(who)
                st.empty().html(_html(writing, who, writing.hues))


def _choose(form: Form, mixes: Mapping[str, MixRecord]) -> tuple[MixRecord, list[Speaker]]:
    """Return the mix in the address, or the newest one, and the speakers: the mix and the model to compare."""
    refs = sorted(mixes, key=lambda ref: mixes[ref].created_at, reverse=True)
    mix = mixes[st.selectbox("Mix", refs, **form.field("mix", refs[0], allowed=refs, always=True))]
    st.caption(label(short_quality(evaluation_of(mix, list(mixes.values()))).capitalize()))
    beside = [NOTHING, SEED, *(ref for ref in refs if ref != mix.ref)]
    names = {NOTHING: "Nothing", SEED: f"Its seed, {mix.seed}"}
    other = st.selectbox(
        "Compare with",
        beside,
        format_func=lambda choice: names.get(choice, choice),
        help="Continues the same prompt with the same sampling settings.",
        **form.field("beside", NOTHING, allowed=beside),
    )
    speakers = [Speaker(mix.ref)]
    if other:
        speakers.append(Speaker(mix.seed, is_seed=True) if other == SEED else Speaker(other))
    return mix, speakers


def _desk(
    registry: Registry,
    form: Form,
    mixes: Mapping[str, MixRecord],
    speakers: list[Speaker],
    knobs: Knobs,
    hues: list[str],
    texts: DeltaGenerator,
) -> None:
    """Draw the prompt, and each speaker's text in `texts`."""
    field = form.field(
        "prompt", "", shared_chars=SHARED_CHARS, allowed=lambda text: len(text) <= PROMPT_CHARS
    )
    if "unsent" in st.session_state:  # a refused message returns to its field
        form.set("prompt", st.session_state.pop("unsent"))
    typed = st.text_area(
        "Message" if knobs.chat else "Prompt",
        height=120,
        max_chars=PROMPT_CHARS,
        placeholder="Enter a message, for example: What is a matrix?"
        if knobs.chat
        else "Enter a text for the mix to continue, for example: def fibonacci(n):",
        **field,
    )
    form.write_address()
    below = st.container()
    with st.container(horizontal=True):
        wanted = st.button(
            "Send" if knobs.chat else "Generate",
            type="primary",
            icon=":material/send:" if knobs.chat else ":material/stylus_note:",
            # Not disabled for an empty prompt: Streamlit sends the text only when the text area loses focus.
            disabled=not knobs.active,
            on_click=_take if knobs.chat else None,
            args=(form.key("prompt"),) if knobs.chat else None,
        )
        stop = st.empty()
        address.share_link()
        if knobs.chat and newest_writing(speakers, knobs.chat) is not None:
            st.button("New conversation", icon=":material/add_comment:", on_click=_forget)
    prompt = st.session_state.pop("sent", "") if knobs.chat else typed or ""
    above = st.container()
    with texts.container():
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
    newest = newest_writing(speakers, knobs.chat)
    with above:
        block = choose_block(
            [newest.texts.get(who, []) for who in speakers] if newest else [], "played_block"
        )
    if newest is not None and st.session_state.pop("unread", False):
        # The text ends at once; the prompt's colours need another pass of the model.
        for who in places.keys() & newest.texts.keys():
            places[who].html(_html(newest, who, hues))
    read = _prompts_read(registry, mixes, newest, list(places), knobs.active)
    _show(newest, places, hues, block, read)


def _prompts_read(
    registry: Registry,
    mixes: Mapping[str, MixRecord],
    newest: Writing | None,
    speakers: Sequence[Speaker],
    active: Sequence[str],
) -> dict[Speaker, Sequence[Written]]:
    """Return the prompt as each mix read it, so that it has the experts' colours too; nothing in a chat."""
    if newest is None or newest.chat or not active:
        return {}
    return {
        who: mix_reading(
            registry, mixes[who.name], newest.prompt, active if place == 0 else mixes[who.name].experts
        ).tokens
        for place, who in enumerate(speakers)
        if not who.is_seed and newest.texts.get(who)
    }


def _take(key: str) -> None:
    """Move the typed message out of its field, before the page is drawn."""
    st.session_state["sent"] = st.session_state.get(key) or ""
    st.session_state[key] = ""


def _forget() -> None:
    st.session_state.pop("writing", None)


def _by(who: Speaker) -> None:
    """Draw the name of the column's speaker; a mix links to its page."""
    title = f"**{label(who.name)}**" + (" :gray[the seed]" if who.is_seed else "")
    with st.container(key=f"by-{who.name}-{who.is_seed}"):
        st.page_link(routes.mix(), label=title, query_params={"ref": who.name}, disabled=who.is_seed)


def _write(
    registry: Registry,
    prompt: str,
    knobs: Knobs,
    hues: list[str],
    places: Mapping[Speaker, DeltaGenerator],
) -> None:
    """Let the speakers generate in turns, and show each token as it arrives."""
    before = newest_writing(list(places), knobs.chat) if knobs.chat else None
    earlier = [*before.earlier, before] if before else []
    none: dict[Speaker, list[Token]] = {who: [] for who in places}
    writing = Writing(prompt, knobs.chat, none, dict.fromkeys(places, 0.0), hues, earlier)
    for who, place in places.items():
        place.html(_html(writing, who, hues, writing=True))
    try:
        stream = models.write(
            registry,
            {who: messages_of(writing, who, knobs.system) if knobs.chat else prompt for who in places},
            knobs.sampling(),
            active_experts=knobs.active,
            template=knobs.template,
        )
        st.session_state.update({"writing": writing, "unread": True})
        drawn = dict.fromkeys(places, 0.0)
        with closing(stream):  # a click stops this script, and the models are unlocked at once
            started = time.perf_counter()
            for who, token in stream:
                writing.seconds[who] += time.perf_counter() - started
                writing.texts[who].append(token)
                # Each message has the whole text: with one per token, the browser falls behind and Stop waits for it.
                if time.monotonic() - drawn[who] >= DRAWN_SECONDS:
                    places[who].html(_html(writing, who, hues, writing=True))
                    drawn[who] = time.monotonic()
                started = time.perf_counter()
    except Exception:
        st.session_state["writing"] = before
        if knobs.chat:
            st.session_state["unsent"] = prompt
        raise


def _html(
    newest: Writing,
    who: Speaker,
    hues: Sequence[str],
    *,
    block: int | None = None,
    writing: bool = False,
    read: Sequence[Written] = (),
) -> str:
    """Return the speaker's text; in a chat all turns, each after its message.

    `read` is the prompt with its routing, if that is known.
    """
    gap = "\n\n" if newest.chat else ""
    return "".join(
        text_html(
            read or turn.prompt + gap, turn.texts[who], hues, block=block, writing=writing and turn is newest
        )
        for turn in (*newest.earlier, newest)
    )


def _show(
    newest: Writing | None,
    places: Mapping[Speaker, DeltaGenerator],
    hues: Sequence[str],
    block: int | None,
    read: Mapping[Speaker, Sequence[Written]],
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
                _text(who, newest, hues, block, read.get(who, ()))


def _text(
    who: Speaker, newest: Writing, hues: Sequence[str], block: int | None, read: Sequence[Written]
) -> None:
    tokens = newest.texts[who]
    if block is not None and block >= len(tokens[0].blocks):  # another mix may have fewer
        block = None
    st.html(_html(newest, who, hues, block=block, read=read))
    speed = len(tokens) / max(newest.seconds[who], 1e-9)
    about = "" if newest.chat else ". Click a token, or move to it with the Tab key, for its alternatives."
    st.caption(f"{plural(len(tokens), 'token')}, {speed:.1f} tokens/s{about}")
    if who.is_seed:
        return
    known = [ref for ref in hues if ref in tokens[0].experts]
    st.html(share_bars(shares(tokens, known, block), hues))
    if st.toggle(
        "Every block", key=f"grid-{who}", help="Show the expert that each block chose for each token."
    ):
        st.html(block_grid(tokens, hues))
