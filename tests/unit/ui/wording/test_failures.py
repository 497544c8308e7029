"""Errors in words: one line, and nothing of a stranger's file at length."""

from __future__ import annotations

import pytest

from registry.errors import InvalidInputError, UnsafeFileError
from ui.wording.failures import LONGEST_ECHO, LONGEST_MESSAGE, describe


@pytest.mark.parametrize(
    "echo", ["x" * 2_000_000, f"'{'two words ' * 5000}'", f'"{"x y" * 5000}"', "/".join(["folder"] * 999)]
)
@pytest.mark.parametrize("error", [InvalidInputError, UnsafeFileError, ValueError, OSError])
def test_no_error_echoes_more_than_200_characters_of_an_input(error: type[Exception], echo: str) -> None:
    (line,) = describe(error(f"data.jsonl, line 1: {echo}: name its text with --text-column"))
    assert len(line) < 2 * LONGEST_ECHO + 100
    assert "data.jsonl, line 1" in line and line.count("--text-column") == 1


def test_a_message_of_many_words_has_an_end_and_one_line() -> None:
    (line,) = describe(InvalidInputError("word\n\n" * 5000))
    assert len(line) <= LONGEST_MESSAGE + len("error: ") and "\n" not in line


def test_a_short_message_is_not_changed() -> None:
    said = "expected 'a', got 'b': remove it"
    assert describe(InvalidInputError(said)) == [f"error: {said}"]


def test_a_panic_of_compiled_code_is_an_error_like_any_other() -> None:
    panic = type("PanicException", (BaseException,), {})
    (line,) = describe(panic("index out of bounds"))
    assert line.startswith("error: unexpected PanicException: index out of bounds")
