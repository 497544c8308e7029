"""Licences: parsing of SPDX expressions, and incompatible combinations."""

from __future__ import annotations

import tracemalloc

import pytest

from registry.community_licenses import COMMUNITY
from registry.errors import LicenseError
from registry.hub_licenses import tag_of
from registry.licenses import check_license, combine, obligations


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("apache-2.0", "Apache-2.0"),
        ("mit or apache-2.0", "MIT OR Apache-2.0"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("odc-by", "ODC-By-1.0"),
        ("MIT OR ODbL", "MIT OR ODbL-1.0"),
        ("llama3.1", "LicenseRef-llama3.1"),
        ("Gemma AND odc-by", "LicenseRef-gemma AND ODC-By-1.0"),
        ("LicenseRef-llama3", "LicenseRef-llama3"),
        ("MIT AND (LicenseRef-a.b OR CC-BY-4.0)", "MIT AND (LicenseRef-a.b OR CC-BY-4.0)"),
    ],
)
def test_an_spdx_expression_is_returned_in_its_normal_form(given: str, normal: str) -> None:
    assert check_license(given) == normal


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("apache 2", "did you mean Apache-2.0"),
        ("gpl-2", "did you mean GPL-2.0-only"),
        ("openrail", "means several licences: write LicenseRef-creativeml-openrail-m or"),
        ("gpl", "means several licences: write GPL-2.0-only or GPL-2.0-or-later or GPL-3.0-only"),
        ("MIT AND BSD", "means several licences: write BSD-2-Clause or BSD-3-Clause"),
        ("MIT AND made-up", "unknown licence 'made-up'"),
        ("LicenseRef-bad_name", "unknown licence"),
        ("MIT AND", "not an SPDX expression"),
        ("MIT WITH GPL-2.0-only", "not an SPDX expression"),
        ("((((", "not an SPDX expression"),
        ("\x1b[31m", "not an SPDX expression"),
        ("", "a licence is required"),
        ("MIT OR " * 500 + "MIT", "at most 1000 characters"),
    ],
)
def test_an_unknown_or_missing_licence_is_refused_with_a_suggestion(given: str, hint: str) -> None:
    with pytest.raises(LicenseError) as caught:
        check_license(given)
    assert hint in str(caught.value) and str(caught.value).isascii()


@pytest.mark.parametrize(
    ("expressions", "result"),
    [
        (["Apache-2.0"], "Apache-2.0"),
        (["MIT", "Apache-2.0", "MIT"], "Apache-2.0 AND MIT"),
        (["GPL-2.0-or-later", "Apache-2.0"], "Apache-2.0 AND GPL-2.0-or-later"),
        (["GPL-2.0-only OR MIT", "Apache-2.0"], "Apache-2.0 AND MIT"),
        (["CC-BY-SA-4.0", "GPL-3.0-only"], "CC-BY-SA-4.0 AND GPL-3.0-only"),
        (["CC-BY-NC-4.0", "MIT"], "CC-BY-NC-4.0 AND MIT"),
        (["LicenseRef-llama3", "LicenseRef-llama3"], "LicenseRef-llama3"),
        (["CC-BY-ND-4.0 OR MIT", "MIT"], "MIT"),
        (["LicenseRef-other"], "LicenseRef-other"),
        (["LicenseRef-llama3", "MIT"], "LicenseRef-llama3 AND MIT"),
        (["LicenseRef-acme-0123456789ab", "LicenseRef-acme-0123456789ab"], "LicenseRef-acme-0123456789ab"),
        (["LicenseRef-llama3 AND MIT"], "LicenseRef-llama3 AND MIT"),
        (["(GPL-2.0-only AND Apache-2.0) OR MIT"], "MIT"),
        (["MIT OR (ISC AND (Zlib OR NCSA))", "GPL-2.0-only"], "GPL-2.0-only AND MIT"),
        (["Apache-2.0 OR (ISC AND (GPL-3.0-only OR NCSA))", "GPL-2.0-only"], "GPL-2.0-only AND ISC AND NCSA"),
        (["GPL-2.0-only OR GPL-3.0-only"] * 40 + ["Apache-2.0"], "Apache-2.0 AND GPL-3.0-only"),
    ],
)
def test_licences_that_fit_combine_to_one_expression(expressions: list[str], result: str) -> None:
    assert combine([(f"expert{i}@1", expression) for i, expression in enumerate(expressions)]) == result


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("GPL-2.0-only", "Apache-2.0", "forbids the further conditions"),
        ("GPL-2.0-only", "GPL-3.0-or-later", "forbids the further conditions"),
        ("GPL-3.0-only", "CC-BY-NC-4.0", "forbids commercial use"),
        ("CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", "forbids commercial use"),
        ("CC-BY-SA-4.0", "GPL-2.0-only", "their own terms for the whole work"),
        ("LicenseRef-x", "MIT", "terms of LicenseRef-x are not known"),
        ("LicenseRef-llama3", "GPL-3.0-only", "restricts the use"),
        ("LicenseRef-llama3", "LicenseRef-gemma", "restricts the use"),
        ("LicenseRef-acme", "LicenseRef-acme", "LicenseRef-acme-0123456789ab"),
        ("OGTSL", "MIT", "terms of OGTSL are not known"),
        ("LicenseRef-other", "LicenseRef-other", "may be a different licence"),
        ("LicenseRef-OpenRAIL", "LicenseRef-OpenRAIL", "may be a different licence"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_licences_that_forbid_each_other_are_blocked_with_the_pair_named(
    one: str, other: str, reason: str, swapped: bool
) -> None:
    pair = [("first@1", one), ("second@2", other)]
    with pytest.raises(LicenseError) as caught:
        combine(pair[::-1] if swapped else pair)
    message = str(caught.value)
    assert f"first@1 ({one})" in message and f"second@2 ({other})" in message and reason in message


def test_a_licence_without_adaptations_cannot_be_in_any_mix() -> None:
    with pytest.raises(LicenseError, match=r"closed@1 \(CC-BY-NC-ND-4.0\) cannot be merged with open@1"):
        combine([("open@1", "MIT"), ("closed@1", "CC-BY-NC-ND-4.0")])


def test_three_licences_of_which_two_conflict_are_blocked_though_each_offers_a_choice() -> None:
    with pytest.raises(LicenseError, match=r"a@1 .* and c@1 .* forbid each other"):
        combine(
            [("a@1", "GPL-2.0-only"), ("b@1", "MIT OR GPL-3.0-only"), ("c@1", "Apache-2.0 OR GPL-3.0-only")]
        )


def test_terms_that_contradict_each_other_in_one_expression_are_blocked() -> None:
    with pytest.raises(LicenseError, match=r"code@1 contradicts itself \(GPL-2.0-only AND Apache-2.0\)"):
        combine([("code@1", "GPL-2.0-only AND Apache-2.0")])
    with pytest.raises(LicenseError, match=r"code@1 \(LicenseRef-x\) and law@1 \(MIT\) .* not known"):
        combine([("code@1", "LicenseRef-x AND MIT"), ("law@1", "MIT")])


def many(term: str, count: int) -> str:
    """The largest allowed number of terms in an expression, each with its number."""
    text = " AND ".join(term.format(i) for i in range(count))
    assert len(text) <= 1000
    return text


def in_little_memory(licenses: list[tuple[str, str]]) -> str:
    """Return the combined licence or the error message; assert a peak below 20 MB."""
    check_license("MIT")  # load the list of licences first
    tracemalloc.start()
    try:
        return combine(licenses)
    except LicenseError as error:
        return str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()


def test_choices_are_not_multiplied_out() -> None:
    assert in_little_memory([("a@1", many("(MIT OR LicenseRef-{})", 36))]) == "MIT"
    assert in_little_memory([("a@1", many("(LicenseRef-{} OR MIT)", 36)), ("b@1", "ISC")]) == "ISC AND MIT"
    nested = "MIT OR (ISC AND (" * 50 + "Zlib" + "))" * 50
    assert in_little_memory([("a@1", nested), ("b@1", "ISC")]) == "ISC AND MIT"


def test_choices_that_cannot_be_weighed_in_bounded_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.licenses._MAX_STEPS", 20_000)
    hopeless = many("(MIT OR ISC)", 40) + " AND (GPL-2.0-only OR LGPL-2.0-only)"
    told = in_little_memory([("a@1", hopeless), ("b@1", "Apache-2.0")])
    assert "no compatible choice of these licences was found in 20,000 steps" in told and "without OR" in told


def test_obligations_name_the_community_licences_with_their_source() -> None:
    found = obligations("LicenseRef-gemma AND LicenseRef-qwen-research AND MIT")
    assert found["non_commercial"] == ["LicenseRef-qwen-research"] and found["unknown"] == []
    assert found["restricted"][0] == "LicenseRef-gemma (https://ai.google.dev/gemma/terms)"


def test_every_community_licence_is_a_tag_that_is_read_and_has_an_address() -> None:
    for tag, terms in COMMUNITY.items():
        assert check_license(tag) == check_license(f"LicenseRef-{tag}") == f"LicenseRef-{tag}"
        assert terms.source.startswith("https://")


def test_the_hubs_tags_of_licences_are_read_and_written() -> None:
    assert [tag_of(name) for name in ("Apache-2.0", "GPL-2.0-or-later", "ODC-By-1.0", "MIT AND ISC")] == [
        "apache-2.0",
        "gpl-2.0",
        "odc-by",
        "other",
    ]
    with pytest.raises(LicenseError) as caught:
        check_license("openrail++")
    assert "did you mean" not in str(caught.value) and "use LicenseRef-openrail" in str(caught.value)
