"""Generated text as HTML; each token has the colour of the expert it was routed to, over all blocks or in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import streamlit as st

from ui.web.components import escaped
from ui.wording.display import share

# Hues that differ in light and dark mode, and for most people with colour vision deficiency.
PALETTE = ("#7a73ea", "#e08a1e", "#169f86", "#d84b7e", "#3f8fd6", "#9a8a2d", "#a35bc2", "#6b7a8f")
GRID_TOKENS = 128  # more columns than this make the page slow and the grid unreadable


class Written(Protocol):
    """A generated token: its text, the share of blocks that chose each expert, and each block's expert weights."""

    @property
    def text(self) -> str: ...
    @property
    def experts(self) -> dict[str, float]: ...
    @property
    def blocks(self) -> list[dict[str, float]]: ...


def colour(place: int) -> str:
    """Return the colour of the expert at an index; the eight colours repeat."""
    return PALETTE[place % len(PALETTE)]


def text_html(
    prompt: str | Sequence[Written],
    tokens: Sequence[Written],
    experts: Sequence[str],
    *,
    block: int | None = None,
    writing: bool = False,
) -> str:
    """The prompt and the generated text; the strength of a token's tint shows its top expert's share.

    An expert's colour follows its index in `experts`. Its share is the fraction of blocks that chose it, or its
    weight in one `block` (from 0). The prompt may be given as tokens with a routing. Unless the text is still being
    written, a token with the focus shows its alternatives.
    """
    caret = '<span class="nm-caret"></span>' if writing else ""
    written = "".join(
        _token(token, experts, block, "" if writing else _alternatives(token)) for token in tokens
    )
    before = (
        escaped(prompt, lines=True)
        if isinstance(prompt, str)
        else "".join(_token(token, experts, block) for token in prompt)
    )
    prompt_html = f'<span class="prompt">{before}</span>'
    return f'<div class="nm-written" aria-live="polite">{prompt_html}{written}{caret}</div>'


def _token(token: Written, experts: Sequence[str], block: int | None, more: str = "") -> str:
    """A token; `more` is HTML that it shows while it has the focus."""
    parts = token.experts if block is None else token.blocks[block] if token.blocks else {}
    text = escaped(token.text, lines=True)
    if not any(parts.values()):
        return f'<span class="dense" tabindex="0">{text}{more}</span>' if more else text
    tint = _tint(parts, experts)
    said = escaped(_said(parts))
    focus = ' tabindex="0"' if more else ""
    return f'<span class="tok" style="{tint}" title="{said}"{focus}>{text}{more}</span>'


def _alternatives(token: object) -> str:
    """The likeliest tokens in its place, as a small table; empty if they are not known."""
    found: Sequence[tuple[str, float]] = getattr(token, "alternatives", ())
    rows = "".join(
        f"<span><code>{escaped(repr(text)[1:-1] or ' ')}</code>{share(part)}</span>" for text, part in found
    )
    return f'<span class="alts" role="note">{rows}</span>' if rows else ""


def _tint(parts: Mapping[str, float], experts: Sequence[str]) -> str:
    """CSS variables of the top expert's hue; its strength grows with the expert's share."""
    first = top_expert(parts)
    if first is None:
        return "--hue:transparent;--strength:0%"
    return f"--hue:{colour(experts.index(first))};--strength:{12 + 30 * parts[first]:.0f}%"


def top_expert(parts: Mapping[str, float]) -> str | None:
    """Return the expert with the largest share, or None if the block chose no expert."""
    return max(parts, key=lambda ref: parts[ref]) if parts else None


def _said(parts: Mapping[str, float]) -> str:
    """Format the shares, largest first: "python@1 75 %, law@1 25 %"."""
    largest = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{ref} {share(part)}" for ref, part in largest if part > 0) or "no expert"


def shares(tokens: Sequence[Written], experts: Sequence[str], block: int | None = None) -> dict[str, float]:
    """Return each expert's mean share over the tokens, in the given order; all 0 without tokens.

    With a `block`, return the fraction of tokens whose top expert in that block it was.
    """
    count = max(1, len(tokens))
    if block is None:
        return {ref: sum(token.experts.get(ref, 0.0) for token in tokens) / count for ref in experts}
    chosen = [top_expert(token.blocks[block]) for token in tokens]
    return {ref: chosen.count(ref) / count for ref in experts}


def share_bars(parts: Mapping[str, float], experts: Sequence[str]) -> str:
    """One bar per expert in its colour, with its name and share."""
    rows = "".join(
        f'<div class="row"><span class="dot" style="background:{colour(experts.index(ref))}"></span>'
        f'<span class="name">{escaped(ref)}</span><span class="track"><span class="bar" '
        f'style="width:{part:.0%};background:{colour(experts.index(ref))}"></span></span>'
        f'<span class="figure">{share(part)}</span></div>'
        for ref, part in parts.items()
    )
    return f'<div class="nm-shares">{rows}</div>'


def block_grid(tokens: Sequence[Written], experts: Sequence[str]) -> str:
    """Grid with tokens as columns and blocks as rows (the last block on top), coloured by the top expert."""
    shown = tokens[:GRID_TOKENS]
    head = "".join(f"<th scope='col'><span>{escaped(token.text)}</span></th>" for token in shown)
    body = "".join(
        f'<tr><th scope="row">block {block + 1}</th>{"".join(_cell(t, experts, block) for t in shown)}</tr>'
        for block in reversed(range(len(shown[0].blocks)))
    )
    more = f"; the first {GRID_TOKENS} tokens" if len(tokens) > GRID_TOKENS else ""
    return (
        f'<div class="nm-scroll" tabindex="0"><table class="nm-grid"><caption>The top expert in each block{more}'
        f"</caption><tbody>{body}</tbody><tfoot><tr><td></td>{head}</tr></tfoot></table></div>"
    )


def _cell(token: Written, experts: Sequence[str], block: int) -> str:
    parts = token.blocks[block]
    return f'<td title="{escaped(_said(parts))}"><div style="{_tint(parts, experts)}"></div></td>'


def choose_block(texts: Sequence[Sequence[Written]], key: str) -> int | None:
    """Draw the choice of the block whose choices are shown; return it, from 0, or None for all blocks."""
    blocks = max((len(tokens[0].blocks) for tokens in texts if tokens), default=0)
    if blocks < 2:
        return None
    chosen = st.select_slider(
        "Coloured by",
        range(blocks + 1),
        key=key,
        format_func=lambda block: f"block {block}" if block else "all blocks",
    )
    return chosen - 1 if chosen else None
