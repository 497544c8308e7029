"""How text and figures look on every screen: hostile characters made visible, one format per unit."""

from __future__ import annotations

import unicodedata

# Joiners that several scripts need to spell ordinary words, unlike the other invisible characters.
HARMLESS_FORMAT = frozenset("\u200c\u200d")
# Controls, invisible formats (bidirectional overrides among them), lone surrogates, private use, separators.
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def printable(text: object, *, lines: bool = False) -> str:
    """Return `text` with every character that could move a cursor or reorder a line as a visible escape.

    printable("a\\x1b[2J\\u202e") == "a\\\\x1b[2J\\\\u202e"; with `lines`, newlines and tabs stay as they are.
    """
    text = str(text)
    if text.isprintable():  # nearly all are, and one card holds many
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
    """2_600_000 → "2.6 M", 470_000_000 → "470 M", 1_300_000_000 → "1.3 B" (the field says B, not G)."""
    return _scaled(count).replace("G", "B")


def size(count: int) -> str:
    """A size in decimal units: 1_234_567 → "1.2 MB"."""
    return _scaled(count) + ("B" if count >= 1000 else " B")


def _scaled(count: float) -> str:
    for scale, prefix in SCALES:
        # Values that would round up to "1000 k" belong to the next scale.
        if count >= scale * 0.9995:
            value = count / scale
            return f"{value:.0f} {prefix}" if value >= 99.95 else f"{value:.1f} {prefix}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """0.42 → "0.4 s", 75 → "1 min 15 s", 7260 → "2 h 1 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def share(fraction: float) -> str:
    """0.634 → "63 %"."""
    return f"{fraction:.0%}".replace("%", " %")


def cosine(score: float) -> str:
    """0.7132 → "0.71", -0.04 → "−0.04" (a minus as wide as a digit), never "−0.00"."""
    return f"{round(score, 2) + 0.0:.2f}".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """1, "expert" → "1 expert"; 3, "expert" → "3 experts"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
