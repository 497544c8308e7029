"""Comparison of scores, which is valid only on the same text. An evaluation stores a signature of each domain's text.

Evaluations by earlier versions have no signatures: their text is unknown and never counts as equal to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.records import MixRecord

Evaluation = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """Bits per byte of a mix on a domain, and of the seed and the domain's own expert where they were measured."""

    mix: float
    seed: float | None = None
    expert: float | None = None

    @property
    def kept(self) -> float | None:
        """The share of the own expert's gain over the seed that the mix keeps."""
        return None if self.seed is None or self.expert is None else _kept(self.seed, self.expert, self.mix)

    @property
    def without_gain(self) -> bool:
        """Whether the own expert was measured and is no better than the seed."""
        return self.seed is not None and self.expert is not None and not _has_gain(self.seed, self.expert)


@dataclass
class Comparison:
    """Scores by domain and mix, all of one domain on the same text (`rows`); by mix, the domains measured on
    different text only (`unlike`)."""

    rows: dict[str, dict[str, Score]] = field(default_factory=dict)
    unlike: dict[str, list[str]] = field(default_factory=dict)


def compare(chosen: Sequence[MixRecord], mixes: Iterable[MixRecord]) -> Comparison:
    """Compare mixes by all evaluations; an evaluation of one mix may have columns of others.

    Of several texts of a domain, the one on which most of the chosen mixes were measured counts, and of these the
    text of the newest mix.
    """
    refs = [mix.ref for mix in chosen]
    by_text: dict[str, dict[str, dict[str, Score]]] = {}
    for other in sorted(mixes, key=lambda each: each.created_at, reverse=True):
        measured = other.evaluation or {}
        for domain, row in measured.get("bits_per_byte", {}).items():
            # Text that was not recorded counts as equal to itself only.
            text = signatures(measured).get(domain, {}).get("sha256", f"unknown text of {other.ref}")
            scores = by_text.setdefault(domain, {}).setdefault(text, {})
            for ref in refs:
                column = "mix" if ref == other.ref else ref
                if column in row:
                    scores.setdefault(ref, Score(row[column], row.get("seed"), row.get("expert")))
    result = Comparison()
    for domain, texts in by_text.items():
        rows = max(texts.values(), key=len)
        if rows:
            result.rows[domain] = {ref: rows[ref] for ref in refs if ref in rows}
        for ref in refs:
            if ref not in rows and any(ref in scores for scores in texts.values()):
                result.unlike.setdefault(ref, []).append(domain)
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


def gain_kept(evaluation: Evaluation, column: str = "mix") -> float | None:
    """Return the share of its experts' gain over the seed that the mix keeps, on the mean of bits per byte.

    1.0 means as good as each domain's own expert. Another `column` is measured in the same way. None if a score is
    missing or the experts have no gain.
    """
    rows = list(evaluation["bits_per_byte"].values())
    if not rows or any(not {"seed", "expert", column} <= row.keys() for row in rows):
        return None
    return _kept(*(sum(row[name] for row in rows) for name in ("seed", "expert", column)))


def gains_kept(evaluation: Evaluation, column: str = "mix") -> dict[str, float]:
    """Return the same share for each domain on which its expert has a gain and the column was measured."""
    found = {
        domain: _kept(row["seed"], row["expert"], row[column])
        for domain, row in evaluation["bits_per_byte"].items()
        if {"seed", "expert", column} <= row.keys()
    }
    return {domain: kept for domain, kept in found.items() if kept is not None}


def domains_without_gain(evaluation: Evaluation) -> list[str]:
    """Return the domains whose own expert was measured and is no better than the seed: they have no share."""
    rows = evaluation["bits_per_byte"].items()
    measured = {domain: row for domain, row in rows if {"seed", "expert"} <= row.keys()}
    return [domain for domain, row in measured.items() if not _has_gain(row["seed"], row["expert"])]


def _has_gain(seed: float, expert: float) -> bool:
    return expert < seed


def _kept(seed: float, expert: float, score: float) -> float | None:
    return (seed - score) / (seed - expert) if _has_gain(seed, expert) else None


def evaluation_of(mix: MixRecord, mixes: Iterable[MixRecord]) -> Evaluation | None:
    """Return a mix's own evaluation, or its scores in the newest evaluation of another mix that also measured it.

    The latter has this mix's domains only, in the form of its own evaluation, without its routing.
    """
    if mix.evaluation is not None:
        return mix.evaluation
    for other in sorted(mixes, key=lambda each: each.created_at, reverse=True):
        if other.evaluation is not None and (found := _of_another(mix, other)):
            return found
    return None


def _of_another(mix: MixRecord, other: MixRecord) -> dict[str, Any] | None:
    """Return a mix's part of another mix's evaluation; None if one of its domains was not measured."""
    measured = other.evaluation or {}
    names = [ref.split("@")[0] for ref in other.experts]
    domains = {
        name if names.count(name) == 1 else ref: ref for name, ref in zip(names, other.experts, strict=True)
    }
    rows = {
        domain: row
        for domain, row in measured["bits_per_byte"].items()
        if domains.get(domain) in mix.experts and mix.ref in row
    }
    if len(rows) < len(mix.experts):
        return None
    # The nearest expert and dense merging are those of the other mix's experts.
    columns = ("seed", "expert", *(("btm", "dense_merging") * (set(mix.experts) == set(other.experts))))
    scores = {
        domain: {**{name: row[name] for name in columns if name in row}, "mix": row[mix.ref]}
        for domain, row in rows.items()
    }
    shared = [name for name in (*columns, "mix") if all(name in row for row in scores.values())]
    return {
        "mix": mix.ref,
        "text": {domain: text for domain, text in signatures(measured).items() if domain in rows},
        "bits_per_byte": scores,
        "mean": {name: sum(row[name] for row in scores.values()) / len(scores) for name in shared},
    }
