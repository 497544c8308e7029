"""Comparable scores: only those on the same text, from any evaluation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from composer.evaluation.comparison import (
    compare,
    evaluation_of,
    gain_kept,
    gains_kept,
    is_same_text,
    text_bytes,
    unlike_domains,
)
from registry.records import MixRecord


def evaluation(sha256: str | None = "a", **scores: float) -> dict[str, Any]:
    """An evaluation on one domain; without a digest, as in records of earlier versions."""
    result: dict[str, Any] = {"bits_per_byte": {"law": scores}}
    return result if sha256 is None else {**result, "text": {"law": {"sha256": sha256, "bytes": 60_000}}}


def mix(name: str, *experts: str, evaluation: dict[str, Any] | None = None) -> MixRecord:
    """Version 1 of a mix."""
    return MixRecord(
        name, 1, "seed", None, experts, "sha256:m", "sha256:l", datetime(2026, 1, 1, tzinfo=UTC), evaluation
    )


def compared(
    one: dict[str, Any] | None, other: dict[str, Any] | None
) -> tuple[dict[str, dict[str, float]], dict[str, list[str]]]:
    """The bits per byte of the mixes x@1 and y@1 by domain, and what is not compared."""
    mixes = [mix("x", evaluation=one), mix("y", evaluation=other)]
    found = compare(mixes, mixes)
    rows = {domain: {ref: score.mix for ref, score in row.items()} for domain, row in found.rows.items()}
    return rows, found.unlike


def test_scores_of_one_text_are_compared() -> None:
    found = compared(evaluation(mix=2.0), evaluation(mix=3.0))
    assert found == ({"law": {"x@1": 2.0, "y@1": 3.0}}, {})


def test_scores_of_different_or_of_unknown_text_are_not() -> None:
    for one, other in (("a", "b"), ("a", None), (None, "a"), (None, None)):
        found = compared(evaluation(one, mix=2.0), evaluation(other, mix=3.0))
        assert found == ({"law": {"x@1": 2.0}}, {"y@1": ["law"]})


def test_a_mix_that_was_measured_along_with_the_other_is_compared_by_that() -> None:
    along = {"mix": 2.0, "y@1": 2.5}
    both = {"law": {"x@1": 2.0, "y@1": 2.5}}
    assert compared(evaluation(**along), None) == (both, {})
    assert compared(evaluation(**along), evaluation("b", mix=3.0)) == (both, {})
    assert compared(evaluation(None, **along), evaluation(mix=3.0)) == (both, {})


def test_what_was_not_measured_is_neither_compared_nor_called_unlike() -> None:
    for other in (None, {"bits_per_byte": {"code": {"seed": 1.0}}}):
        assert compared(evaluation(mix=2.0), other) == ({"law": {"x@1": 2.0}}, {})


def test_several_evaluations_are_unlike_where_any_two_differ() -> None:
    assert unlike_domains([evaluation(mix=1.0), evaluation(mix=2.0)]) == []
    assert unlike_domains([evaluation(mix=1.0), evaluation(mix=2.0), evaluation("b", mix=2.0)]) == ["law"]
    assert unlike_domains([evaluation(None, mix=1.0), evaluation(None, mix=1.0)]) == ["law"]
    assert unlike_domains([evaluation(None, mix=1.0)]) == []


def test_the_amount_of_text_is_known_only_where_it_was_recorded() -> None:
    assert (text_bytes(evaluation(mix=1.0)), text_bytes(evaluation(mix=1.0), "law")) == (60_000, 60_000)
    assert (text_bytes(evaluation(None)), text_bytes(evaluation(mix=1.0), "code")) == (None, None)
    assert not is_same_text(evaluation(None), evaluation(None), "law")


def test_the_kept_gain_is_the_mixs_gain_over_the_seed_as_a_share_of_the_experts() -> None:
    rows = {"a": {"seed": 3.0, "expert": 2.0, "mix": 2.5}, "b": {"seed": 4.0, "expert": 3.0, "mix": 3.0}}
    assert gain_kept({"bits_per_byte": rows}) == 0.75
    assert gain_kept({"bits_per_byte": {**rows, "c": {"seed": 3.0, "mix": 2.0}}}) is None
    assert gain_kept({"bits_per_byte": {"a": {"seed": 2.0, "expert": 2.0, "mix": 1.0}}}) is None
    assert gain_kept({"bits_per_byte": {}}) is None


def test_the_kept_gain_is_known_by_domain_and_for_every_column() -> None:
    rows = {
        "a": {"seed": 3.0, "expert": 2.0, "mix": 2.5, "btm": 3.5},
        "b": {"seed": 4.0, "expert": 4.0, "mix": 3.0},
    }
    assert gains_kept({"bits_per_byte": rows}) == {"a": 0.5}
    assert gains_kept({"bits_per_byte": rows}, "btm") == {"a": -0.5}


def test_a_mix_without_an_evaluation_has_that_of_another_on_its_own_domains() -> None:
    rows = {
        "law": {"seed": 3.0, "expert": 2.0, "btm": 2.6, "mix": 2.1, "old@1": 2.5},
        "code": {"seed": 3.0, "expert": 2.0, "btm": 2.6, "mix": 2.1, "old@1": 3.5},
    }
    new = mix("new", "law@1", "code@1", evaluation={"bits_per_byte": rows})
    found = evaluation_of(mix("old", "law@1"), [new])
    assert found is not None
    assert found["bits_per_byte"] == {"law": {"seed": 3.0, "expert": 2.0, "mix": 2.5}}
    assert (gain_kept(found), found["mean"]["mix"]) == (0.5, 2.5)
    assert evaluation_of(mix("old", "law@2"), [new]) is None  # another version of the expert
    same = evaluation_of(mix("old", "code@1", "law@1"), [new])
    assert same is not None and same["mean"]["btm"] == 2.6
