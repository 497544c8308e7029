"""The models' paths on a second device: nothing mixes two devices, and the results are the CPU's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all paths, from a process of its own, because a device cannot be unregistered."""
    folders = (TESTS.parent, TESTS, Path(__file__).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "NEXUSMIX_EMBEDDER": "hashing:16",
    }
    done = subprocess.run(
        [sys.executable, "-m", "device_paths", str(tmp_path_factory.mktemp("devices"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def test_every_path_runs_on_a_second_device(found: dict[str, Any]) -> None:
    failed = {
        f"{device}: {path}": result
        for device, results in found.items()
        for path, result in results.items()
        if isinstance(result, str) and "Traceback" in result
    }
    assert not failed, "\n".join(f"{path}\n{trace[-1500:]}" for path, trace in failed.items())


@pytest.mark.parametrize(
    "path",
    [
        "whole experts",
        "evaluate whole experts",
        "generate greedily",
        "sample",
        "extend whole experts",
        "measure an expert",
        "weights on demand",
    ],
)
def test_whole_experts_give_equal_results_and_draws_on_both_devices(found: dict[str, Any], path: str) -> None:
    assert found["second"][path] == found["cpu"][path]


@pytest.mark.parametrize(
    "path",
    [
        "fine-tune whole experts",
        "evaluate fine-tuned experts",
        "merged trunk",
        "evaluate merged",
        "extend merged",
        "evaluate extended",
        "fine-tune merged",
        "train an expert",
    ],
)
def test_fits_and_fine_tunes_give_close_results_on_both_devices(found: dict[str, Any], path: str) -> None:
    here, there = (list(numbers(found[device][path])) for device in ("cpu", "second"))
    assert here
    # Matrices of another layout are summed in another order. Shares are rounded to four digits.
    assert there == pytest.approx(here, rel=1e-4, abs=5e-4)


def numbers(result: Any) -> Iterator[float]:
    """All numbers of a result, in order."""
    if isinstance(result, dict):
        for value in result.values():
            yield from numbers(value)
    elif isinstance(result, (int, float)):
        yield float(result)
