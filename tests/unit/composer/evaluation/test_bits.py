"""Selection of the held-out text for scores, and the memory of scoring it."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import torch

from composer.bits_per_byte import BATCH_WINDOWS, PIECE_BYTES, excerpts, token_nats

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


def test_the_logits_of_a_batch_are_released_before_the_next_one_is_computed() -> None:
    """For a large vocabulary they are a gigabyte."""
    returned: list[weakref.ref[torch.Tensor]] = []

    def forward(input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not any(reference() is not None for reference in returned)
        logits = torch.zeros(*input_ids.shape, 11)
        returned.append(weakref.ref(logits))
        return SimpleNamespace(logits=logits)

    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=11))
    forward.config, forward.device = config, torch.device("cpu")  # type: ignore[attr-defined]
    nats = token_nats(forward, torch.zeros(3 * BATCH_WINDOWS, 5, dtype=torch.long))
    assert len(returned) == 3
    torch.testing.assert_close(nats, torch.full((3 * BATCH_WINDOWS, 4), 11.0).log())
