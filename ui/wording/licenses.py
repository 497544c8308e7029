"""The consequences of a mix's licence in a sentence or two."""

from __future__ import annotations

from registry.errors import LicenseError
from registry.licenses import obligations


def licence_words(expression: str) -> str:
    """Return what a licence expression means for the user of a mix: commercial use, sharing, terms to read."""
    try:
        found = obligations(expression)
    except LicenseError:  # written by another version
        return f"Read the terms of {expression} before you use the mix."
    words = []
    if found["non_commercial"]:
        words.append(f"Non-commercial use only, because of {_listed(found['non_commercial'])}.")
    if found["same_terms"]:
        words.append(f"Who shares the mix must do so under {_listed(found['same_terms'])}.")
    if found["restricted"]:
        words.append(f"The use is restricted: read {_listed(found['restricted'])}.")
    if found["unknown"]:
        words.append(f"Read the terms of {_listed(found['unknown'])} first: they are not known here.")
    return " ".join(words) or "Commercial use is permitted. Keep the authors' notices."


def _listed(names: list[str]) -> str:
    return " and ".join(names)
