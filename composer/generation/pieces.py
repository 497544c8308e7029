"""Text of a generation while it is written: complete characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTEXT = 8  # tokens before a new one that decide on its spaces
INCOMPLETE = "\ufffd"


class Detokenizer:
    """Converts token ids to text as they arrive. Special tokens have no text.

    A character may span several tokens: it belongs to the one that completes it. The tokens before are decoded too,
    because several tokenizers write a space only between two tokens.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-CONTEXT:])
        self._start, self._read = 0, len(self._ids)

    def add(self, token_id: int) -> str:
        """Return the new text; empty until a character is complete."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        if after.endswith(INCOMPLETE):
            return ""
        self._start, self._read = max(self._start, self._read - CONTEXT), len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopStrings:
    """Ends a text before the first stop string. Text that may be the start of one is withheld until that is known."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._withheld = ""
        self.found = False

    def add(self, text: str) -> str:
        """Return the text that is certainly before any stop string, and set `found` at one."""
        text = self._withheld + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._withheld = True, ""
            return text[: min(places)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._withheld = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """Return the withheld text, at the end of the generation."""
        text, self._withheld = self._withheld, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is the start of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
