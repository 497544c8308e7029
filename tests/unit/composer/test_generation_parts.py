"""Sampling settings, the text of token ids as they arrive, and stop strings."""

from __future__ import annotations

import math
from typing import Any

import pico
import pytest
import torch

from composer.errors import RecipeError
from composer.generation.pieces import Detokenizer, StopStrings
from composer.generation.sampling import Sampling, sampler


def written(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """The text of these pieces that a reader sees, and whether a stop string ended it."""
    filter_, text = StopStrings(stops), ""
    for piece in pieces:
        text += filter_.add(piece)
        if filter_.found:
            return text, True
    return text + filter_.rest(), False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["END"], ["one E", "N", "D two"], ("one ", True)),
        (["END"], ["one E", "N", "Emy"], ("one ENEmy", False)),
        (["END"], ["one EN"], ("one EN", False)),
        (["aab"], ["aaa", "b!"], ("a", True)),
        (["two", "one"], ["zero one two"], ("zero ", True)),
        (["\n\n"], ["a\n", "b\n", "\nc"], ("a\nb", True)),
        ([], ["anything"], ("anything", False)),
    ],
)
def test_a_text_ends_before_the_first_stop_string_however_it_is_cut(
    stops: list[str], pieces: list[str], expected: tuple[str, bool]
) -> None:
    assert written(stops, pieces) == expected


def test_nothing_that_may_start_a_stop_string_is_shown_early() -> None:
    stops = StopStrings(["</s>"])
    assert [stops.add(piece) for piece in ("a<", "/", "b")] == ["a", "", "</b"]


@pytest.mark.parametrize("text", ["plain words", "zwölf €uro 🦜 and 𝕏", " leading and  double spaces\n\n"])
def test_token_texts_join_to_the_text_and_no_character_is_cut(text: str) -> None:
    tokenizer = pico.pico_tokenizer()
    ids = tokenizer(text)["input_ids"]
    for split in (0, 3):
        stream = Detokenizer(tokenizer, ids[:split])
        pieces = [stream.add(each) for each in ids[split:]]
        assert "".join(pieces) == text[split:] and "\ufffd" not in "".join(pieces)


def test_a_special_token_has_no_text() -> None:
    tokenizer = pico.pico_tokenizer()
    assert Detokenizer(tokenizer, []).add(tokenizer.pad_token_id) == ""


def test_a_space_that_is_written_only_between_two_words_is_kept_after_the_prompt() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"▁one": 0, "▁two": 1, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert tokenizer.decode([1]) == "two"
    assert Detokenizer(tokenizer, [0]).add(1) == " two"


def test_top_k_and_top_p_leave_only_the_likeliest_tokens() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0])
    for changes, allowed in (({"top_k": 2}, {0, 1}), ({"top_p": 0.6}, {0}), ({"top_p": 0.7}, {0, 1})):
        sample = sampler(Sampling(temperature=1.0, **changes))
        assert {sample(logits) for _ in range(200)} == allowed
    warm = sampler(Sampling(temperature=5.0))
    assert {warm(logits) for _ in range(500)} == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [0.0, 1e-300])
def test_a_temperature_near_zero_selects_the_likeliest_token(temperature: float) -> None:
    assert sampler(Sampling(temperature=temperature))(torch.tensor([0.0, 900.0, 1.0])) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"top_k": -1},
        {"random_seed": -1},
        {"random_seed": 2**63},
        {"stop": ("",)},
        {"stop": ("x" * 1001,)},
        {"stop": tuple("abcdefghijklmnopq")},
    ],
)
def test_a_setting_outside_its_range_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        Sampling(**wrong)
