"""Selection of the held-out text for scores."""

from __future__ import annotations

from composer.bits_per_byte import PIECE_BYTES, excerpts

LONG = [letter * (5 * PIECE_BYTES) for letter in "abcdefgh"]


def test_text_within_the_budget_is_scored_whole() -> None:
    assert excerpts(["one", "", "two"], 100) == ["one", "two"]


def test_excerpts_come_from_every_part_of_the_text() -> None:
    """The first documents alone could all be of one type."""
    taken = excerpts(LONG, 8 * PIECE_BYTES)
    assert [piece[0] for piece in taken] == list("abcdefgh")
    assert sum(map(len, taken)) == 8 * PIECE_BYTES


def test_a_budget_below_a_piece_is_kept() -> None:
    assert [len(piece) for piece in excerpts(LONG, 100)] == [100]


def test_many_short_documents_fill_the_budget_too() -> None:
    taken = excerpts([f"{i:03}" for i in range(1000)], 300)
    assert taken == [f"{i:03}" for i in range(0, 1000, 10)]


def test_characters_that_a_cut_would_split_are_left_out() -> None:
    taken = excerpts(["ä" * (3 * PIECE_BYTES + 1)], PIECE_BYTES + 1)
    assert set("".join(taken)) == {"ä"}


def test_the_budget_is_never_exceeded() -> None:
    documents = ["x" * (i * 97 % 5000) for i in range(200)]
    for budget in (1, 1000, 20_000, 100_001):
        assert 0.75 * budget <= sum(map(len, excerpts(documents, budget))) <= budget
