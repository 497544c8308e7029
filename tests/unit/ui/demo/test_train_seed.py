"""Training of the demo's seed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ui.demo import train_seed
from ui.demo.train_seed import DECAY_SHARE, LEARNING_RATE, batch_of, learning_rate, run_steps

STEPS = 6


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    for name, value in {"ROW": 16, "SHORT": 8, "SAVE_STEPS": 2}.items():
        monkeypatch.setattr(train_seed, name, value)
    return torch.randint(64, (10, 16), generator=torch.Generator().manual_seed(0), dtype=torch.int16)


def _model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )


def test_an_interrupted_training_resumes_and_gives_the_same_weights(
    rows: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = _model(), _model()
    (tmp_path / "whole").mkdir()
    run_steps(whole, rows, {"notes": rows[:2]}, STEPS, tmp_path / "whole")

    def interrupted(rows: torch.Tensor, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return batch_of(rows, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_seed, "batch_of", interrupted)
        run_steps(_model(), rows, {"notes": rows[:2]}, STEPS, tmp_path)
    run_steps(resumed, rows, {"notes": rows[:2]}, STEPS, tmp_path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    logged = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [0, 2, 4, 6, 6]
    assert logged[-1]["held_out"]["notes"] < logged[0]["held_out"]["notes"]


def test_the_rate_warms_up_is_constant_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] < rates[10] < max(rates) == LEARNING_RATE
    constant = rates[train_seed.WARM_UP_STEPS : round(1000 * (1 - DECAY_SHARE))]
    assert set(constant) == {LEARNING_RATE}
    decay = rates[round(1000 * (1 - DECAY_SHARE)) :]
    assert all(a > b for a, b in itertools.pairwise(decay))
    assert decay[-1] < LEARNING_RATE / 100


def test_each_pass_over_the_text_has_every_row_once_in_another_order() -> None:
    rows = torch.arange(12).view(12, 1)
    passes = [
        torch.cat([batch_of(rows, step) for step in range(3 * i, 3 * i + 3)]).flatten() for i in range(2)
    ]
    assert all(sorted(one.tolist()) == list(range(12)) for one in passes)
    assert passes[0].tolist() != passes[1].tolist()
