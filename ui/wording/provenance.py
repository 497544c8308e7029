"""An expert's provenance in words, for the shell and the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DIFFERENCE = "difference_from_seed"


def in_words(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The entries as they are shown; the differences from the seed become one sentence per role."""
    shown = {name: value for name, value in provenance.items() if name != DIFFERENCE}
    for role, difference in provenance.get(DIFFERENCE, {}).items():
        shown[f"{role} against its seed"] = _sentence(**difference)
    return shown


def _sentence(cosine: float | None, changed: float | None) -> str:
    if changed is None:
        return "of another width than the seed's, so not compared"
    share = f"{changed:.0%} of the weights changed"
    return share if cosine is None else f"{share}, cosine {cosine:.4f}"
