"""Readings of a text: bits as transformers computes them, whole text, masks, and windows."""

from __future__ import annotations

import math

import pytest
import torch

from composer import lens
from composer.errors import RecipeError
from composer.lens import read
from composer.mix.lock import lock_seed
from composer.mix.opening import OpenSeed, find_mix, open_mix, open_seed
from composer.training.data import separator
from registry.catalog.queries import get_seed
from registry.home import Registry

TEXT = "def main: the plaintiff asked the court – naïve 你好 – for a verdict.\n"


@pytest.fixture
def seed(mixed: Registry) -> OpenSeed:
    """The seed of the mixes."""
    return open_seed(mixed, lock_seed(get_seed(mixed, "smol")))


def test_the_tokens_are_the_whole_text_and_their_bits_those_of_transformers(seed: OpenSeed) -> None:
    found = read(seed, TEXT)
    assert "".join(token.text for token in found.tokens) == TEXT
    ids = [*separator(seed.tokenizer), *seed.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    rows = torch.tensor([ids])
    with torch.inference_mode():
        mean = seed.model(input_ids=rows, labels=rows).loss.item()
    assert found.bits == pytest.approx(mean * (len(ids) - 1) / math.log(2), rel=1e-4)


def test_a_long_text_is_read_in_windows_up_to_its_limit(
    seed: OpenSeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(seed, TEXT)
    monkeypatch.setattr(lens, "WINDOW", 8)
    monkeypatch.setattr(lens, "MOST_TOKENS", 20)
    found = read(seed, TEXT)
    assert (len(found.tokens), found.is_cut, whole.is_cut) == (20, True, False)
    assert [t.bits for t in found.tokens[:8]] == pytest.approx([t.bits for t in whole.tokens[:8]], rel=1e-3)


def test_a_masked_expert_reads_no_token(mixed: Registry) -> None:
    _record, manifest = find_mix(mixed, "team@1")
    opened = open_mix(mixed, manifest)
    both, masked = read(opened, TEXT), read(opened, TEXT, active_experts=["law@1"])
    assert len(both.tokens) == len(masked.tokens) and both.bits != masked.bits
    assert all(set(token.experts) == {"code@1", "law@1"} for token in both.tokens)
    assert all(token.experts["code@1"] == 0 for token in masked.tokens)
    assert all(len(token.blocks) == len(opened.model.mixtures()) for token in both.tokens)


def test_a_text_without_tokens_is_refused(seed: OpenSeed) -> None:
    with pytest.raises(RecipeError, match="no tokens"):
        read(seed, "")
