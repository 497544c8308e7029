"""Comparison of scores, which is valid only on the same text. An evaluation stores a signature of each domain's text.

Evaluations by earlier versions have no signatures: their text is unknown and never counts as equal to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Evaluation = Mapping[str, Any]


@dataclass
class Comparison:
    """Bits per byte of two mixes by domain (`rows`), and the domains measured on different text (`unlike`)."""

    rows: dict[str, tuple[float, float]] = field(default_factory=dict)
    unlike: list[str] = field(default_factory=list)


def compare(one_ref: str, one: Evaluation | None, other_ref: str, other: Evaluation | None) -> Comparison:
    """Compare two mixes by their newest evaluations; either evaluation may contain a column of the other mix."""
    scores = [(each or {}).get("bits_per_byte", {}) for each in (one, other)]
    result = Comparison()
    for domain in dict.fromkeys([*scores[0], *scores[1]]):
        first, second = (each.get(domain, {}) for each in scores)
        if other_ref in first:
            result.rows[domain] = (first["mix"], first[other_ref])
        elif one_ref in second:
            result.rows[domain] = (second[one_ref], second["mix"])
        elif first and second and is_same_text(one or {}, other or {}, domain):
            result.rows[domain] = (first["mix"], second["mix"])
        elif first and second:
            result.unlike.append(domain)
    return result


def is_same_text(one: Evaluation, other: Evaluation, domain: str) -> bool:
    """Return whether two evaluations measured a domain on the same text; False if either text is unknown."""
    signature = signatures(one).get(domain)
    return signature is not None and signature == signatures(other).get(domain)


def unlike_domains(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the domains that several evaluations measured, but not on the same text."""
    found = []
    for domain in dict.fromkeys(domain for each in evaluations for domain in each["bits_per_byte"]):
        having = [each for each in evaluations if domain in each["bits_per_byte"]]
        if any(not is_same_text(having[0], each, domain) for each in having[1:]):
            found.append(domain)
    return found


def signatures(evaluation: Evaluation) -> Mapping[str, Mapping[str, Any]]:
    """Return the signature of each domain's text, {"sha256": …, "bytes": …}; empty if the text is unknown."""
    return evaluation.get("text") or {}


def text_bytes(evaluation: Evaluation, domain: str | None = None) -> int | None:
    """Return the bytes of text on which one domain, or all domains, were measured; None if unknown."""
    known = signatures(evaluation)
    if domain is not None:
        return known[domain]["bytes"] if domain in known else None
    return sum(each["bytes"] for each in known.values()) if known else None


def gain_kept(evaluation: Evaluation) -> float | None:
    """Return the share of its experts' gain over the seed that the mix keeps, on the mean of bits per byte.

    1.0 means as good as each domain's own expert. None if a score is missing or the experts have no gain.
    """
    rows = list(evaluation["bits_per_byte"].values())
    if not rows or any(not {"seed", "expert", "mix"} <= row.keys() for row in rows):
        return None
    seed, expert, mix = (sum(row[column] for row in rows) for column in ("seed", "expert", "mix"))
    return (seed - mix) / (seed - expert) if expert < seed else None
