"""Text that changes domain: the positions of the changes, and the scores of a model around them."""

from __future__ import annotations

import math

import pico
import pytest
import torch

from composer.bits_per_byte import token_nats, windows
from composer.errors import MissingTextError
from composer.evaluation.changing_text import (
    changing_text,
    measure,
    own_expert_nats,
    stream_of,
    summary,
)


@pytest.fixture(scope="module")
def tokenizer():
    return pico.pico_tokenizer()


@pytest.fixture(scope="module")
def streams(tokenizer):
    return {
        domain: stream_of(windows(tokenizer, pico.domain_documents(domain), max_bytes=4000, length=64))
        for domain in ("code", "law", "math")
    }


@pytest.fixture(scope="module")
def text(tokenizer, streams):
    return changing_text(tokenizer, streams, rows=6, length=32)


def test_a_stream_is_the_held_out_text_without_the_overlap_of_its_windows(tokenizer):
    held_out = windows(tokenizer, ["one", "two"], max_bytes=100, length=4)
    end = tokenizer.eos_token_id
    expected = [end, *tokenizer("one")["input_ids"], end, *tokenizer("two")["input_ids"], end]
    assert stream_of(held_out).tolist() == expected


def test_every_row_changes_to_the_next_domain_in_its_middle(text, streams):
    domains = list(streams)
    for row, (ids, owner, distance) in enumerate(
        zip(text.ids_RS, text.owner_RS, text.distance_RS, strict=True)
    ):
        first, second = row % 3, (row + 1) % 3
        assert owner.tolist() == [first] * 16 + [second] * 16
        assert distance.tolist() == [-1] * 16 + list(range(16))
        for place, piece in ((first, ids[:16]), (second, ids[16:])):
            stream = streams[domains[place]]
            assert any(torch.equal(piece, stream[i : i + 16]) for i in range(len(stream) - 15))


def test_a_row_of_three_pieces_changes_twice(tokenizer, streams):
    text = changing_text(tokenizer, streams, rows=1, length=30, pieces=3)
    assert text.owner_RS[0].tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert text.distance_RS[0].tolist() == [-1] * 10 + list(range(10)) * 2


def test_the_bytes_of_a_piece_are_shared_out_among_its_tokens(tokenizer):
    streams = {
        name: torch.tensor(tokenizer(word * 20)["input_ids"])
        for name, word in (("plain", "the "), ("wide", "ä€ "))
    }
    text = changing_text(tokenizer, streams, rows=2, length=16)
    for ids, shares in zip(text.ids_RS, text.bytes_RS, strict=True):
        for piece, share in zip(ids.split(8), shares.split(8), strict=True):
            assert share.sum().item() == pytest.approx(len(tokenizer.decode(piece.tolist()).encode()))


def test_one_domain_cannot_change(tokenizer, streams):
    with pytest.raises(MissingTextError, match="two domains"):
        changing_text(tokenizer, {"code": streams["code"]}, rows=1, length=32)


def test_a_domain_with_less_than_a_piece_is_named(tokenizer, streams):
    with pytest.raises(MissingTextError, match="too short: tiny"):
        changing_text(tokenizer, {**streams, "tiny": torch.zeros(3, dtype=torch.long)}, rows=1, length=32)


def test_bits_and_own_share_are_reported_by_the_distance_from_the_change(text):
    nats_RS = torch.zeros(6, 31)
    nats_RS[:, 15:19] = 1.0  # of the tokens at distances 0 to 3, because the first token is not predicted
    own_RS = (text.distance_RS != 0).float()
    told = summary(text, nats_RS, own_RS)
    first = text.bytes_RS[:, 16:20].sum().item()
    assert told["by_distance"]["0–3"]["bits_per_byte"] == pytest.approx(24 / math.log(2) / first)
    assert told["by_distance"]["0–3"]["own"] == pytest.approx(0.75)
    assert told["by_distance"]["before"] == {"bits_per_byte": 0.0, "own": 1.0}
    assert told["bits_per_byte"] == pytest.approx(24 / math.log(2) / text.bytes_RS[:, 1:].sum().item())
    assert list(told["by_distance"]) == ["before", "0–3", "4–15"], "a group without tokens is left out"


def test_a_model_that_knows_the_change_keeps_its_own_share(text):
    model = pico.pico_model("llama")
    told = measure(
        model, text, lambda: torch.zeros(1, len(text.ids_RS) * 32, 1, dtype=torch.long)
    )  # the index of the first domain, for every token
    assert told["own"] == pytest.approx((text.owner_RS == 0).float().mean().item())
    without = measure(model, text)
    assert "own" not in without and without["bits_per_byte"] == pytest.approx(told["bits_per_byte"])


def test_rows_beyond_a_batch_are_counted_with_their_own_owners(tokenizer, streams):
    text = changing_text(tokenizer, streams, rows=11, length=32)
    batches = iter([text.owner_RS[:8], text.owner_RS[8:]])
    told = measure(pico.pico_model("llama"), text, lambda: next(batches).reshape(1, -1, 1))
    assert told["own"] == 1.0


def test_the_oracle_reads_the_whole_row_and_is_scored_where_its_domain_is(text):
    models = [pico.pico_model("llama", seed=seed) for seed in range(3)]
    nats = own_expert_nats(models, text)
    alone = [token_nats(model, text.ids_RS) for model in models]
    for row, column in ((0, 0), (0, 20), (1, 14), (1, 15), (5, 30)):
        owner = text.owner_RS[row, column + 1]
        assert nats[row, column] == alone[owner][row, column]
