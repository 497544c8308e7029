"""An expert's provenance as text, for the shell and the pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DIFFERENCE = "difference_from_seed"


def in_words(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries to display: nested ones under joined names, and one sentence per role for the differences."""
    shown = dict(_flat({name: value for name, value in provenance.items() if name != DIFFERENCE}))
    for role, difference in provenance.get(DIFFERENCE, {}).items():
        shown[f"{role} compared with its seed"] = _sentence(**difference)
    return shown


def _flat(entries: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{of}{name}: ")
        else:
            yield f"{of}{name}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _sentence(cosine: float | None, changed: float | None) -> str:
    if changed is None:
        return "not compared: its width differs from the seed's"
    share = f"{changed:.0%} of the weights changed"
    return share if cosine is None else f"{share}, cosine {cosine:.4f}"
