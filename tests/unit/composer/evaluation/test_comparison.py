"""Comparable scores: only those on the same text, from any evaluation."""

from __future__ import annotations

from typing import Any

from composer.evaluation.comparison import compare, gain_kept, is_same_text, text_bytes, unlike_domains


def evaluation(sha256: str | None = "a", **scores: float) -> dict[str, Any]:
    """An evaluation on one domain; without a digest, as in records of earlier versions."""
    result: dict[str, Any] = {"bits_per_byte": {"law": scores}}
    return result if sha256 is None else {**result, "text": {"law": {"sha256": sha256, "bytes": 60_000}}}


def test_scores_of_one_text_are_compared() -> None:
    found = compare("x@1", evaluation(mix=2.0), "y@1", evaluation(mix=3.0))
    assert (found.rows, found.unlike) == ({"law": (2.0, 3.0)}, [])


def test_scores_of_different_or_of_unknown_text_are_not() -> None:
    for one, other in (("a", "b"), ("a", None), (None, "a"), (None, None)):
        found = compare("x@1", evaluation(one, mix=2.0), "y@1", evaluation(other, mix=3.0))
        assert (found.rows, found.unlike) == ({}, ["law"])


def test_a_mix_that_was_measured_along_with_the_other_is_compared_by_that() -> None:
    along = {"mix": 2.0, "y@1": 2.5}
    assert compare("x@1", evaluation(**along), "y@1", None).rows == {"law": (2.0, 2.5)}
    assert compare("y@1", evaluation("b", mix=3.0), "x@1", evaluation(**along)).rows == {"law": (2.5, 2.0)}
    assert compare("x@1", evaluation(None, **along), "y@1", evaluation(mix=3.0)).rows == {"law": (2.0, 2.5)}


def test_what_was_not_measured_is_neither_compared_nor_called_unlike() -> None:
    for other in (None, {"bits_per_byte": {"code": {"mix": 1.0}}}):
        found = compare("x@1", evaluation(mix=2.0), "y@1", other)
        assert not found.rows and not found.unlike


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
