"""Generated text in the colours of its experts."""

from __future__ import annotations

from dataclasses import dataclass, field

from ui.web.token_view import (
    GRID_TOKENS,
    block_grid,
    colour,
    share_bars,
    shares,
    text_html,
)

EXPERTS = ["code@1", "law@1"]


@dataclass
class Token:
    text: str
    experts: dict[str, float] = field(default_factory=dict)
    blocks: list[dict[str, float]] = field(default_factory=list)


CODE = Token("<def>", {"code@1": 0.5, "law@1": 0.5}, [{"code@1": 0.9}, {"law@1": 0.6}])
NONE = Token(" x", {"code@1": 0.0, "law@1": 0.0}, [{}, {}])


def test_a_token_has_the_colour_of_its_expert_and_its_text_is_escaped() -> None:
    shown = text_html("a <b>", [CODE], EXPERTS)
    assert "a &lt;b&gt;" in shown and "&lt;def&gt;" in shown
    assert colour(0) in shown and "code@1 50 %, law@1 50 %" in shown


def test_in_one_block_a_token_has_the_colour_of_what_that_block_chose() -> None:
    shown = text_html("", [CODE], EXPERTS, block=1)
    assert colour(1) in shown and colour(0) not in shown
    assert shares([CODE, NONE], EXPERTS, block=1) == {"code@1": 0.0, "law@1": 0.5}


def test_a_token_of_no_expert_is_plain_text() -> None:
    assert 'class="tok"' not in text_html("", [NONE, Token("seed")], EXPERTS)
    assert 'title="no expert"' in block_grid([NONE], EXPERTS)


def test_shares_keep_the_colours_of_the_whole_page() -> None:
    assert colour(1) in share_bars({"law@1": 1.0}, EXPERTS)


def test_the_grid_has_the_last_block_on_top_and_ends_at_its_limit() -> None:
    grid = block_grid([CODE] * (GRID_TOKENS + 1), EXPERTS)
    assert grid.index("block 2") < grid.index("block 1")
    assert grid.count("<td title") == 2 * GRID_TOKENS
    assert f"the first {GRID_TOKENS} tokens" in grid
