"""The benchmark of GPUs runs where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_compares_the_cpu_with_itself_and_says_so() -> None:
    sizes = ["--shapes", "pico", "--rounds", "1", "--bytes", "500", "--tokens", "512"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", *sizes], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no GPU was found" in done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| pico")]
    assert [row[-1] for row in rows[:-1]] == ["ok |"] * 7
    assert rows[-1][1] == "cpu"
