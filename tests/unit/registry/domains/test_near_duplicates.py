"""Near-duplicates across the split."""

from __future__ import annotations

import random

from registry.domains.documents import Reservoir, is_held_out, split, without_near_duplicates
from registry.domains.near_duplicates import Index
from registry.domains.rows import Document
from registry.domains.skipped import Skipped, in_words
from tests.pico import domain_documents

TEXT = "The lessee shall return the premises in the condition in which they were let, save for ordinary wear and tear."


def found(held_out: list[str], training: list[str]) -> set[int]:
    index = Index(held_out)
    for text in training:
        index.compare(text)
    return index.found


def test_copies_with_small_edits_are_found_and_other_texts_of_a_domain_are_not() -> None:
    texts = domain_documents("law", 40)
    assert found(texts[:20], texts[20:]) == set()
    edited = ["Preface. " + texts[3].upper() + " More.", texts[7].replace(" ", "\n")]
    assert found(texts[:20], edited) == {3, 7}


def test_a_short_text_inside_a_long_one_is_found_but_not_the_long_one() -> None:
    long = " ".join(domain_documents("code", 30)) + TEXT
    assert found([TEXT], [long]) == {0}
    assert found([long], [TEXT]) == set()


def test_texts_that_are_too_short_to_compare_are_never_near_duplicates() -> None:
    assert found(["Yes.", ""], ["Yes.", "", TEXT]) == set()
    assert found([], [TEXT]) == set()


def test_held_out_documents_that_nearly_equal_training_text_are_left_out() -> None:
    documents = domain_documents("law", 200)
    sample = split(documents)
    first = sample.held_out[0]
    copy = next(text for n in range(99) if not is_held_out(text := f"{n}. {first}"))
    assert without_near_duplicates(sample.held_out, [*documents, copy]) == sample.held_out[1:]


def test_what_surrounds_all_documents_does_not_make_them_alike() -> None:
    template = " ".join(domain_documents("code", 4))
    short = [f"{template} number {random.Random(n).random()}" for n in range(400)]
    held_out = split(short).held_out
    assert without_near_duplicates(held_out, short) == []
    assert without_near_duplicates(held_out, short, lambda text: text.replace(template, "")) == held_out


def test_a_reservoir_keeps_the_order_of_reading_and_the_answers_if_asked() -> None:
    given = [Document(text, ((0, place),)) for place, text in enumerate(domain_documents("law", 30))]
    whole, part = Reservoir(10**6), Reservoir(1000)
    for document in [*given, given[0]]:
        whole.add(document)
        part.add(document)
    assert whole.documents(as_read=True) == given != whole.documents()
    assert sorted(whole.documents(), key=given.index) == given
    sizes = [len(document.text.encode()) for document in part.documents()]
    assert sum(sizes) == 1000 and 0 < len(sizes) < len(given)


def test_repeated_documents_are_counted_and_counts_are_said_in_words() -> None:
    skipped = Skipped(binary_files=1)
    split(["a", "b", "a", "a"], skipped=skipped)
    assert skipped.counts() == {"duplicates": 2, "binary_files": 1}
    assert in_words(skipped.counts()) == "2 repeated documents, 1 file that is not text"
    assert in_words({}) == ""
