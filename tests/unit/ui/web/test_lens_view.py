"""The lens's text as HTML, and its passages."""

from __future__ import annotations

from composer.lens import ReadToken
from ui.web.lens_view import BAR_PIXELS, PASSAGE_TOKENS, lens_html, passages, verdict

EXPERTS = ["code@1", "law@1"]


def token(text: str, bits: float) -> ReadToken:
    """A token that the first expert predicts."""
    return ReadToken(text, bits, {"code@1": 1.0, "law@1": 0.0}, [{"code@1": 0.5}])


def test_a_bar_is_as_high_as_the_bits_saved_and_red_where_bits_are_lost() -> None:
    saved, lost = token("<a>", 1.0), token("b", 3.0)
    shown = lens_html([saved, lost], [token("<a>", 9.0), token("b", 1.0)], EXPERTS)
    assert f"--up:{BAR_PIXELS}px" in shown and "&lt;a&gt;" in shown
    assert '<i class="t lost"' in shown and f"--up:{BAR_PIXELS // 2}px" in shown
    assert "code@1 · 1.0 bits, seed 9.0" in shown


def test_passages_end_at_sentences_and_a_short_rest_belongs_to_the_last() -> None:
    tokens = [token(" x", 1.0)] * PASSAGE_TOKENS + [token(".", 1.0)]
    tokens += [token(" y", 3.0)] * PASSAGE_TOKENS + [token("!", 3.0), token(" z", 3.0)]
    found = passages(tokens, [token(each.text, 2.0) for each in tokens])
    assert len(found) == 2
    assert found[0].text.endswith("x.") and found[1].text.endswith("! z")
    assert (found[0].gain, found[1].gain, found[0].expert) == (0.5, -0.5, "code@1")


def test_a_verdict_names_the_difference_in_bits() -> None:
    assert verdict(86.0, 100.0, "its seed") == "14 % better than its seed"
    assert verdict(103.0, 100.0, "law@1 alone") == "3 % worse than law@1 alone"
    assert verdict(100.1, 100.0, "its seed") == "as well as its seed"
