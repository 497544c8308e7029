"""The estimated time of composing, from the times of the latest runs."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ui.web import estimate

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
