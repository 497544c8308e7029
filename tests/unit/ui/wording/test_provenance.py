"""The differences of an expert from its seed, in words."""

from __future__ import annotations

from ui.wording.provenance import in_words


def test_the_differences_from_the_seed_become_a_sentence_per_role() -> None:
    provenance = {
        "tokens": 1000,
        "difference_from_seed": {
            "ffn": {"cosine": 0.98765, "changed": 0.5},
            "trunk": {"cosine": None, "changed": 0.0},
        },
    }
    assert in_words(provenance) == {
        "tokens": 1000,
        "ffn compared with its seed": "50% of the weights changed, cosine 0.9877",
        "trunk compared with its seed": "0% of the weights changed",
    }


def test_an_expert_of_before_shows_its_provenance_as_it_was() -> None:
    assert in_words({"tokens": 1000}) == {"tokens": 1000}


def test_a_role_of_another_width_was_not_compared() -> None:
    shown = in_words({"difference_from_seed": {"ffn": {"cosine": None, "changed": None}}})
    assert shown == {"ffn compared with its seed": "not compared: its width differs from the seed's"}


def test_nested_entries_are_shown_under_joined_names_and_never_as_python() -> None:
    provenance = {"adapter": {"r": 8, "target_modules": ["up_proj", "down_proj"], "rank_pattern": {}}}
    assert in_words(provenance) == {"adapter: r": 8, "adapter: target_modules": "up_proj, down_proj"}
