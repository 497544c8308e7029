"""Counts of what was left out of the data, for the end of a command and for an expert's provenance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

_WORDS = {
    "empty": "empty rows",
    "without_text": "rows without text",
    "refused": "conversations that the chat template refuses",
    "duplicates": "repeated documents",
    "near_duplicates": "held-out documents that nearly equal training text",
    "binary_files": "files that are not text",
    "about_files": "files about the data set, such as a README",
}


@dataclass
class Skipped:
    """Numbers of rows, documents and files that were left out."""

    empty: int = 0
    without_text: int = 0
    refused: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    binary_files: int = 0
    about_files: int = 0

    def counts(self) -> dict[str, int]:
        """Return the counts that are not zero."""
        return {name: count for name, count in dataclasses.asdict(self).items() if count}


def in_words(counts: dict[str, int]) -> str:
    """Return the counts as a phrase: "2 empty rows, 1 repeated document". Empty without counts."""
    words = ((count, _WORDS.get(name, name.replace("_", " "))) for name, count in counts.items())
    return ", ".join(f"{count:,} {_one(phrase) if count == 1 else phrase}" for count, phrase in words)


def _one(phrase: str) -> str:
    """Return a phrase in the singular."""
    for many in ("rows", "documents", "files", "conversations"):
        phrase = phrase.replace(many, many[:-1], 1)
    return phrase.replace("that are not", "that is not").replace("nearly equal", "nearly equals")
