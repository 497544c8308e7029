"""Name rules and references."""

from __future__ import annotations

import pytest

from registry.errors import InvalidInputError
from registry.names import MAX_LENGTH, Ref, check_name, check_new_name, name_key, parse_name, parse_ref


@pytest.mark.parametrize(
    "name", ["python", "Python3.11", "c_plus-plus", "7b", "中文", "हिन्दी", "a" * MAX_LENGTH]
)
def test_a_plain_name_is_kept_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "a\\b",
        "..",
        ".hidden",
        "-option",
        "ends.",
        "two words",
        "tab\t",
        "line\n",
        "nul\0byte",
        "bidi\u202e",
        "zero\u200bwidth",
        "at@1",
        "a:b",
        "a" * (MAX_LENGTH + 1),
        "\ufdfa" * MAX_LENGTH,  # NFKC writes each as 18 characters
        "ａ／ｂ",  # NFKC turns the fullwidth slash into a separator
        "CON",
        "nul.txt",
        "Latest",
        "ａｌｌ",
    ],
)
def test_a_name_that_could_mislead_is_refused_in_printable_words(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    ["p\u0443thon", "\u0440\u0443thon", "\u0441\u043e\u0440\u0435", "\u03bf\u03bd", "l\u03b1w", "\u0430-1"],
)
def test_a_new_name_that_looks_like_another_is_refused(name: str) -> None:
    assert check_name(name) == name
    with pytest.raises(InvalidInputError) as caught:
        check_new_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "python",
        "права",
        "текст",
        "日本語のモデル-v2",
        "한국어-llm",
        "νόμος",
        "7b",
        "naïve",
        "हिन्दी",
        "x\u0301",
    ],
)
def test_a_new_name_in_one_alphabet_is_taken(name: str) -> None:
    check_new_name(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Python", "python"), ("Ｐython", "python"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "straße")],
)
def test_names_that_differ_only_by_case_or_unicode_form_share_a_key(one: str, other: str) -> None:
    assert name_key(check_name(one)) == name_key(check_name(other))


def test_a_reference_may_carry_a_version() -> None:
    assert parse_ref("python") == Ref("python", None)
    assert parse_ref("python@12") == Ref("python", 12)
    assert str(parse_ref("python@12")) == "python@12"


@pytest.mark.parametrize(
    "text",
    ["python@", "python@0", "python@01", "python@-1", "python@1.0", "python@١", "a@1@2", "@1", f"a@{2**31}"],
)
def test_a_reference_of_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_ref(text)


def test_a_seed_takes_no_version() -> None:
    assert parse_name("base").key == "base"
    with pytest.raises(InvalidInputError, match="no versions"):
        parse_name("base@1")
