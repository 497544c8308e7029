"""Rows of conversations: their messages, and their texts without a template."""

from __future__ import annotations

from typing import Any

import pytest

from registry.domains.rows import Document, PlainFormat, content_of

HI, HO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
BE = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [BE, HI, HO]}, [BE, HI, HO]),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, [HI, HO]),
        ({"conversation": [{"content": "Hi"}, {"content": "Ho"}]}, [HI, HO]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, HO]}, [HI, HO]),
        ({"prompt": "Hi", "completion": "Ho"}, [HI, HO]),
        ({"prompt": [BE, HI], "completion": [HO]}, [BE, HI, HO]),
        ({"instruction": "Hi", "input": "", "output": "Ho"}, [HI, HO]),
        ({"system_prompt": "Be brief.", "question": "Hi", "response": "Ho"}, [BE, HI, HO]),
    ],
)
def test_the_rows_of_known_data_sets_give_their_messages(row: dict[str, Any], messages: list[Any]) -> None:
    assert content_of(row) == messages


@pytest.mark.parametrize(
    "row",
    [
        {"messages": []},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": "Hi"},
        {"prompt": "Hi"},
        {"text": 3},
        ["Hi"],
        None,
    ],
)
def test_a_row_without_text_has_no_content(row: Any) -> None:
    assert content_of(row) is None


def test_a_named_column_may_contain_the_messages() -> None:
    assert content_of({"text": "other", "chat": [HI, HO]}, "chat") == [HI, HO]


def test_without_a_template_the_texts_are_joined_and_the_answers_are_marked() -> None:
    document = PlainFormat().render([BE, HI, HO, HI, HO])
    assert document.text == "Be brief.\n\nHi\n\nHo\n\nHi\n\nHo"
    assert document.answers is not None
    assert [document.text[a:b] for a, b in document.answers] == ["Ho", "Ho"]


def test_a_part_of_a_document_keeps_its_part_of_the_answers() -> None:
    document = Document("question answer question", ((9, 15),))
    assert document.part(12, 24) == Document("wer question", ((0, 3),))
    assert document.part(0, 8) == Document("question", ())
