"""Packed training rows: full, in the domains' shares, and repeated without a second copy."""

from __future__ import annotations

from typing import Any

import pytest

from composer.errors import MissingTextError, RecipeError
from composer.training.data import mixed_rows, pack, packed, shares
from registry.domains.rows import Document

END = 0


class Letters:
    """A tokenizer whose tokens are the letters' code points."""

    eos_token_id, bos_token_id = END, None

    def __call__(self, text: str, **_: Any) -> dict[str, list[Any]]:
        offsets = [(place, place + 1) for place in range(len(text))]
        return {"input_ids": [ord(letter) for letter in text], "offset_mapping": offsets}


def test_rows_are_full_and_documents_run_on_in_the_next_row() -> None:
    rows_RS = pack(Letters(), ["abcde", "fg"], 3)
    assert rows_RS.tolist() == [[END, ord("a"), ord("b")], [ord("c"), ord("d"), ord("e")], [END, 102, 103]]


def test_only_the_answers_of_a_conversation_count_in_the_loss() -> None:
    asked = Document("qqqANSqqAqqqqqqq", ((3, 6), (8, 9)))
    rows = packed(Letters(), [asked, "text"], 4)
    assert ["".join(map(chr, row)) for row in rows["input_ids"].tolist()] == ["ANSq", "qAqq", "q\0te"]
    assert rows["labels"].tolist() == [[65, 78, 83, -100], [-100, 65, -100, -100], [-100, END, 116, 101]]


def test_packing_stops_at_the_rows_that_are_wanted() -> None:
    assert pack(Letters(), ["abcdefgh" * 100], 4, max_rows=2).shape == (2, 4)


def test_text_shorter_than_a_row_is_refused() -> None:
    with pytest.raises(RecipeError, match="3 tokens; at least one row of 8"):
        pack(Letters(), ["ab"], 8)


def test_a_domain_gets_its_share_of_the_rows_and_short_text_is_repeated() -> None:
    rows = mixed_rows(
        Letters(),
        {"long": ["a" * 400], "short": ["b" * 40]},
        {"long": 0.25, "short": 0.75},
        tokens=8_000,
        length=8,
        random_seed=0,
    )
    mine = [ord("b") in row.tolist() for row in rows["input_ids"][:]]
    assert (len(mine), sum(mine)) == (1000, 750)


def test_repeated_text_is_stored_once_however_many_tokens_are_asked_for() -> None:
    rows = mixed_rows(
        Letters(), {"code": ["a" * 79]}, {"code": 1.0}, tokens=8_000_000, length=8, random_seed=0
    )
    assert (len(rows), rows.data.num_rows) == (1_000_000, 10)


def test_the_random_seed_decides_the_order() -> None:
    def first(random_seed: int) -> Any:
        return mixed_rows(
            Letters(),
            {"code": ["abcdefghijklmnopqrstuvwxyz"]},
            {"code": 1.0},
            tokens=800,
            length=8,
            random_seed=random_seed,
        )["input_ids"][:].tolist()

    assert first(1) == first(1) != first(2)


def test_rows_say_whose_domain_they_are_and_that_general_text_is_nobodys() -> None:
    letters = {"math": "a", "code": "b", "general": "c"}
    rows = mixed_rows(
        Letters(),
        {name: [letter * 100] for name, letter in letters.items()},
        shares(dict.fromkeys(letters, 1.0)),
        tokens=240,
        length=8,
        random_seed=0,
        experts=["code", "math"],
    )
    own = {ord("a"): 1, ord("b"): 0, ord("c"): -1}
    assert all(own[int(row["input_ids"][-1])] == int(row["own_expert"]) for row in rows)


def test_without_any_text_there_is_nothing_to_train_on() -> None:
    with pytest.raises(MissingTextError, match="no domain of this mix has text"):
        mixed_rows(Letters(), {}, {}, tokens=8, length=8, random_seed=0)
