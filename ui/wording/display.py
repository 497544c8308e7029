"""Formatting of text and numbers for display: hostile characters are escaped, and each unit has one format."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.records import MixRecord

# Zero-width joiners: several scripts need them to spell ordinary words. Other invisible characters are escaped.
HARMLESS_FORMAT = frozenset("\u200c\u200d")
# Controls, invisible formats (such as bidirectional overrides), lone surrogates, private use, separators.
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def printable(text: object, *, lines: bool = False) -> str:
    """Return `text` with visible escapes for all characters that could move a cursor or reorder a line.

    printable("a\\x1b[2J\\u202e") == "a\\\\x1b[2J\\\\u202e". With `lines`, newlines and tabs are kept.
    """
    text = str(text)
    if text.isprintable():  # the usual case, and a card contains many texts
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        character
        if character in kept or character in HARMLESS_FORMAT or not _is_hidden(character)
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in HIDDEN_CATEGORIES


def parameters(count: int) -> str:
    """Format a parameter count: 2_600_000 → "2.6 M", 1_300_000_000 → "1.3 B" (the field writes B, not G)."""
    return _scaled(count).replace("G", "B")


def size(count: int) -> str:
    """Format a size in bytes in decimal units: 1_234_567 → "1.2 MB"."""
    return _scaled(count) + ("B" if count >= 1000 else " B")


def _scaled(count: float) -> str:
    for scale, prefix in SCALES:
        # A value that would round up to "1000 k" uses the next scale.
        if count >= scale * 0.9995:
            value = count / scale
            is_exact = count % scale == 0  # as of a chosen number of tokens: "10 k", not "10.0 k"
            return f"{value:.0f} {prefix}" if value >= 99.95 or is_exact else f"{value:.1f} {prefix}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """Format a duration: 0.42 → "0.4 s", 75 → "1 min 15 s", 7260 → "2 h 1 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def share(fraction: float) -> str:
    """Format a share as a percentage: 0.634 → "63 %"."""
    return f"{fraction:.0%}".replace("%", " %")


def cosine(score: float) -> str:
    """Format a cosine: 0.7132 → "0.71", -0.04 → "−0.04" (with a minus as wide as a digit), never "−0.00"."""
    return f"{round(score, 2) + 0.0:.2f}".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: 1, "expert" → "1 expert"; 3, "expert" → "3 experts"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def withdrawn_words(mix: MixRecord) -> str:
    """Sentence about withdrawn and purged experts of a mix, with the remedy; empty if it has none."""
    if not mix.withdrawn:
        return ""
    kept = [ref for ref in mix.withdrawn if ref not in mix.purged]
    parts = [f"{', '.join(kept)}, withdrawn"] * bool(kept) + [f"{', '.join(mix.purged)}, purged"] * bool(
        mix.purged
    )
    state = ", so it does not run" if mix.purged else ""
    return f"{mix.ref} contains {' and '.join(parts)}{state}; without: nexusmix remove {mix.ref} {mix.withdrawn[0]}"
