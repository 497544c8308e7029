"""The estimated time of composing, from the times of the latest runs."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from composer import estimate, memory
from composer.resources import memory_limit

SEED = cast(Any, SimpleNamespace(name="smol"))


def seconds(monkeypatch: pytest.MonkeyPatch, tokens: int, *results: dict[str, Any]) -> tuple[float, bool]:
    found = [SimpleNamespace(result={"seed": "smol", **result}) for result in results]
    monkeypatch.setattr(estimate.runs, "list_runs", lambda *_, **__: found)
    return estimate._seconds(cast(Any, None), SEED, 1_000, tokens)


def test_the_time_of_a_warm_start_does_not_grow_with_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"training": {"tokens": 4_000}, "seconds": 46.0, "stage_seconds": {"trunk": 30.0, "fine-tune": 4.0}}
    assert seconds(monkeypatch, 100_000, run) == (142.0, True)
    assert seconds(monkeypatch, 0, run) == (42.0, True)


def test_a_run_that_does_not_tell_its_stages_counts_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds(monkeypatch, 8_000, {"training": {"tokens": 4_000}, "seconds": 40.0}) == (80.0, True)


def test_without_runs_it_is_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds(monkeypatch, 8_000)[1] is False


@pytest.mark.parametrize("training", [{"warm_start": True, "tokens": 0}])
def test_weights_that_are_computed_take_at_most_half_of_the_limit(training: dict[str, Any]) -> None:
    model = memory.Model(layers=2, hidden=8, ffn=16, vocabulary=100, trunk=2**30, ffns=[2**30], stored=2)
    found = []
    for limit in (2**40, 2**30, 2**29):
        with memory_limit(limit):
            found += memory.of_whole(model, training, 2**32, 0)
    assert found[0] - found[1] == pytest.approx(1.1 * (8 * 2**30 - 2**29))
    assert found[1] - found[2] == pytest.approx(1.1 * 2**28)
    with memory_limit(2**30):
        merged = [memory.of_merged(model, training, domains=count)[0] for count in (1, 2)]
    assert merged[0] < merged[1]


def test_a_fine_tune_needs_sixteen_bytes_per_trained_weight() -> None:
    model = memory.Model(layers=2, hidden=8, ffn=16, vocabulary=100, trunk=1000, ffns=[500, 500], stored=4)
    training = {"warm_start": False, "tokens": 1, "batch_tokens": 512, "micro_batches": 1}
    parts = {
        part: memory.of_merged(model, {**training, "train": part}, domains=2)[0] for part in ("trunk", "all")
    }
    assert parts["all"] - parts["trunk"] == 16 * 1000
    micro = {**training, "train": "trunk", "micro_batches": 4}
    assert memory.of_merged(model, micro, domains=2)[0] < parts["trunk"]
