"""Generated text as HTML, each token in the colour of the expert that most blocks routed it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ui.components import escaped
from ui.display import share

# Hues that stay apart in light and dark, and for most who see colours differently.
PALETTE = ("#7a73ea", "#e08a1e", "#169f86", "#d84b7e", "#3f8fd6", "#9a8a2d", "#a35bc2", "#6b7a8f")


class Written(Protocol):
    """A generated token: its text, and the share of blocks that chose each expert."""

    @property
    def text(self) -> str: ...
    @property
    def experts(self) -> dict[str, float]: ...


def colour(place: int) -> str:
    """The colour of a mix's expert at a place; they come round again after eight."""
    return PALETTE[place % len(PALETTE)]


def text_html(
    prompt: str, tokens: Sequence[Written], experts: Sequence[str], *, writing: bool = False
) -> str:
    """The prompt and what was written after it; a token's tint is as strong as its expert's share."""
    caret = '<span class="nm-caret"></span>' if writing else ""
    written = "".join(_token(token, experts) for token in tokens)
    prompt_html = f'<span class="prompt">{escaped(prompt, lines=True)}</span>'
    return f'<div class="nm-written" aria-live="polite">{prompt_html}{written}{caret}</div>'


def _token(token: Written, experts: Sequence[str]) -> str:
    if not token.experts:
        return escaped(token.text, lines=True)
    first = max(token.experts, key=lambda ref: token.experts[ref])
    said = ", ".join(f"{ref} {share(part)}" for ref, part in _largest(token.experts))
    strength = 12 + 30 * token.experts[first]
    tint = f"--hue:{colour(experts.index(first))};--strength:{strength:.0f}%"
    return (
        f'<span class="tok" style="{tint}" title="{escaped(said)}">{escaped(token.text, lines=True)}</span>'
    )


def _largest(experts: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(ref, part) for ref, part in sorted(experts.items(), key=lambda item: -item[1]) if part > 0]


def shares(tokens: Sequence[Written], experts: Sequence[str]) -> dict[str, float]:
    """The mean share of each expert over the tokens, in the mix's order; all 0 before the first token."""
    count = max(1, len(tokens))
    return {ref: sum(token.experts.get(ref, 0.0) for token in tokens) / count for ref in experts}


def share_bars(parts: Mapping[str, float]) -> str:
    """One bar an expert in its colour, with its name and share."""
    rows = "".join(
        f'<div class="row"><span class="dot" style="background:{colour(place)}"></span>'
        f'<span class="name">{escaped(ref)}</span><span class="track"><span class="bar" '
        f'style="width:{part:.0%};background:{colour(place)}"></span></span>'
        f'<span class="figure">{share(part)}</span></div>'
        for place, (ref, part) in enumerate(parts.items())
    )
    return f'<div class="nm-shares">{rows}</div>'
