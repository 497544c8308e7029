"""The lens: a mix, or two, reads the visitor's own text; nothing is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from composer.evaluation.comparison import evaluation_of
from registry.catalog.queries import list_mixes
from registry.home import Registry
from registry.records import MixRecord
from ui.web import routes
from ui.web.address import share_link
from ui.web.components import compose_link, empty_state, escaped, label, page_title
from ui.web.form import Form
from ui.web.knobs import SHARED_CHARS, choose_experts
from ui.web.lens_view import Passage, lens_html, passages, verdict
from ui.web.quality import short_quality
from ui.web.readings import expert_reading, mix_reading, seed_reading
from ui.web.session import current_registry, shown_errors, shown_refusal
from ui.web.token_view import block_grid, choose_block, share_bars, shares
from ui.wording.display import plural, share

if TYPE_CHECKING:
    from composer.lens import Reading

TEXT_CHARS = 40_000
UPLOAD_MB = 5
BADLY = 0.02  # a passage on which the mix saves less than this is served badly
PASSAGES_SHOWN = 40
NOTHING = ""
HOW = "Paste a text to see which expert reads each word, and how many bits it saves against the seed."


def render() -> None:
    """Draw the page: text and readings on the left; mixes, experts and their shares on the right."""
    page_title("Lens")
    with shown_errors():
        registry = current_registry()
        mixes = {mix.ref: mix for mix in list_mixes(registry)}
        if not mixes:
            empty_state("No mixes yet", "Compose a mix to read your text with it here.")
            compose_link()
            return
        form = Form("lens")
        desk, panel = st.columns([7, 3], gap="large")
        with panel, st.container(key="numbers"):
            chosen = _choose(form, mixes)
            active = choose_experts(chosen[0])
            below = st.container()
        with desk:
            text = _text(form)
            if not text.strip():
                st.html(f'<div class="nm-written empty">{HOW}</div>')
            elif active:
                with shown_refusal():
                    _read(registry, chosen, active, text, below)


def _choose(form: Form, mixes: Mapping[str, MixRecord]) -> list[MixRecord]:
    """Return the chosen mix, and the one to compare it with if there is one."""
    refs = sorted(mixes, key=lambda ref: mixes[ref].created_at, reverse=True)
    mix = mixes[st.selectbox("Mix", refs, **form.field("mix", refs[0], allowed=refs, always=True))]
    st.caption(label(short_quality(evaluation_of(mix, list(mixes.values()))).capitalize()))
    others = [NOTHING, *(ref for ref in refs if ref != mix.ref and mixes[ref].seed == mix.seed)]
    other = st.selectbox(
        "Compare with",
        others,
        format_func=lambda ref: ref or "Nothing",
        help="Another mix of the same seed reads the same text.",
        **form.field("beside", NOTHING, allowed=others),
    )
    return [mix, *([mixes[other]] if other else [])]


def _text(form: Form) -> str:
    """Draw the text's field and the upload; return the text."""
    typed = st.text_area(
        "Your text",
        height=140,
        max_chars=TEXT_CHARS,
        placeholder="A few paragraphs, a source file, an email …",
        help="It is read in memory and not stored. A short text is part of the page's address, to share it.",
        **form.field("text", "", shared_chars=SHARED_CHARS),
    )
    with st.container(horizontal=True):
        st.button("Read it", type="primary", icon=":material/visibility:")
        with st.popover("Read a file", icon=":material/upload_file:", width="content"):
            uploaded = st.file_uploader("A text file", max_upload_size=UPLOAD_MB, key="lens file")
        form.write_address()
        if typed and len(typed) <= SHARED_CHARS:
            share_link()
    if uploaded is not None:
        return uploaded.getvalue()[: 4 * TEXT_CHARS].decode(errors="replace")[:TEXT_CHARS]
    return typed or ""


def _read(
    registry: Registry,
    chosen: Sequence[MixRecord],
    active: Sequence[str],
    text: str,
    below: st.delta_generator.DeltaGenerator,
) -> None:
    """Draw each mix's reading; only the first one is masked."""
    seed = seed_reading(registry, chosen[0].seed, text)
    readings = [
        mix_reading(registry, mix, text, active if mix is chosen[0] else mix.experts) for mix in chosen
    ]
    hues = list(dict.fromkeys(ref for mix in chosen for ref in mix.experts))
    block = choose_block([reading.tokens for reading in readings], key="lens_block")
    verdicts = []
    for column, mix, reading in zip(st.columns(len(chosen), gap="medium"), chosen, readings, strict=True):
        with column:
            verdicts.append(st.empty())
            _verdict(verdicts[-1], mix, reading, {"its seed": seed})
            _reading(mix, reading, seed, hues, block)
    if seed.is_cut:
        st.caption(f"The first {len(seed.tokens):,} tokens were read.")
    with below:
        for mix, reading in zip(chosen, readings, strict=True):
            st.subheader(label(f"Read by {mix.ref}"), anchor=False)
            parts = shares(reading.tokens, mix.experts, _within(reading, block))
            st.html(share_bars(parts, hues))
    _passages(passages(readings[0].tokens, seed.tokens))
    # The expert alone is read last: it is a third of the time, and only the sentence needs it.
    for place, mix, reading in zip(verdicts, chosen, readings, strict=True):
        parts = shares(reading.tokens, mix.experts)
        first = max(parts, key=lambda ref: parts[ref])
        alone = expert_reading(registry, mix, first, text)
        _verdict(place, mix, reading, {"its seed": seed, f"{first} alone": alone})


def _verdict(
    place: st.delta_generator.DeltaGenerator, mix: MixRecord, reading: Reading, others: Mapping[str, Reading]
) -> None:
    words = ", ".join(verdict(reading.bits, other.bits, name) for name, other in others.items())
    place.html(f'<p class="nm-quality">{escaped(mix.ref)} reads your text {escaped(words)}.</p>')


def _within(reading: Reading, block: int | None) -> int | None:
    """Return the block if this mix has it: another mix may have fewer."""
    return block if block is not None and block < len(reading.tokens[0].blocks) else None


def _reading(mix: MixRecord, reading: Reading, seed: Reading, hues: Sequence[str], block: int | None) -> None:
    st.html(lens_html(reading.tokens, seed.tokens, hues, _within(reading, block)))
    st.html(
        '<p class="nm-bars"><i class="up"></i>bits saved against the seed <i class="lost"></i>bits lost</p>'
    )
    if st.toggle(
        "Every block", key=f"lens grid {mix.ref}", help="The expert that each block chose per token."
    ):
        st.html(block_grid(reading.tokens, hues))


def _passages(found: Sequence[Passage]) -> None:
    """Draw the passages as a table, and the way from the worst one to an expert for it."""
    worst = min(found, key=lambda passage: passage.gain)
    if worst.gain < BADLY:
        words = verdict(worst.bits, worst.seed_bits, "its seed")
        with st.container(key="row-worst"):
            st.html(
                f'<p class="nm-need">Served worst: the mix reads this passage {words}.</p>'
                f'<blockquote class="nm-passage">{escaped(worst.text)}</blockquote>'
            )
            if st.button("Find an expert for this passage", icon=":material/search:"):
                st.session_state.update({"sample": worst.text, "q": "", "page": 1})
                st.switch_page(routes.catalog())
    with st.expander(f"The text as {plural(len(found), 'passage')}"):
        rows = "".join(
            f"<tr><td>{escaped(each.text)}</td><td>{escaped(each.expert or 'none')}</td>"
            f"<td>{share(each.gain).replace('-', '−')}</td></tr>"
            for each in found[:PASSAGES_SHOWN]
        )
        st.html(
            '<div class="nm-scroll" tabindex="0"><table class="nm-figures words"><caption>Bits saved against the seed'
            '</caption><thead><tr><th scope="col">passage</th><th scope="col">expert</th><th scope="col">saved</th>'
            f"</tr></thead><tbody>{rows}</tbody></table></div>"
        )
