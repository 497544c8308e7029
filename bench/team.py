"""Time the fine-tune of a mix in one process with one thread and in two: python -m bench.team [--shape 60m].

The target is 0.8 of twice the speed of one process. It makes random models on the spot (bench/gpu.py). A row is the
median over the steps, without the first. A run saves four checkpoints, in which the first process works alone: if most
steps have one, the median is theirs. A busy machine gives two processes more of its time than one, or less, so CPU
seconds are printed, too. Their share is one process's CPU seconds divided by those of two, which the load changes less.

`--independent` runs two copies of the benchmark at once, each with one process. Two cores share their memory, so this
is the most that two processes could reach.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.gpu import EXPERTS, MIXES, SHAPES, TRAINED, Lab, composed
from bench.processes import load_average, note
from composer import processes, resources
from composer.progress import measuring

COUNTS = (1, 2)


def steps(lab: Lab, mix: str, count: int, batch_tokens: int) -> list[tuple[float, float]]:
    """Return the seconds and the CPU seconds of all processes, of each step of a fine-tune but the first."""
    times: list[tuple[float, float]] = []

    def listen(name: str, step: int, value: float) -> None:
        if name == "loss":
            helpers = [helper.process.pid for helper in processes.current().helpers]
            used = (psutil.Process(pid).cpu_times() for pid in (os.getpid(), *helpers))
            times.append((time.monotonic(), sum(each.user + each.system for each in used)))

    os.environ[resources.PROCESSES_VARIABLE] = str(count)
    training: dict[str, Any] = {**TRAINED, "batch_tokens": batch_tokens}
    training |= {"tokens": lab.tokens, "warm_start": False}
    with measuring(listen):
        composed(lab.registry("timed"), "timed", **{**MIXES[mix], "training": training})
    return [(late[0] - early[0], late[1] - early[1]) for early, late in pairwise(times)]


def medians(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the median of each column."""
    wall, cpu = zip(*rows, strict=True)
    return statistics.median(wall), statistics.median(cpu)


def at_once(arguments: Sequence[str]) -> int:
    """Run two copies with one process each at the same time. Returns the larger exit status."""
    command = [sys.executable, "-m", "bench.team", *arguments, "--counts", "1"]
    return max(copy.wait() for copy in [subprocess.Popen(command) for _ in range(2)])


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a command line with the options of a comparison of one process and two."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="60m", choices=SHAPES)
    parser.add_argument("--mixes", nargs="+", default=list(MIXES), choices=MIXES)
    return parser


def main() -> int:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=16, help="a quarter of them also save a checkpoint")
    parser.add_argument("--batch-tokens", type=int, default=TRAINED["batch_tokens"])
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of processes")
    parser.add_argument("--independent", action="store_true", help="run two copies at once")
    given = parser.parse_args()
    if given.independent:
        return at_once([word for word in sys.argv[1:] if word != "--independent"])
    os.environ.setdefault("NEXUSMIX_EMBEDDER", "hashing:64")
    torch.set_num_threads(1)
    print(
        "| shape | mix | processes | tokens/s | of N times one | CPU s per step | share | load |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), given.shape, 4000, given.steps * given.batch_tokens)
        lab.fill()
        for mix in given.mixes:
            note(f"{given.shape}, {mix}, {len(EXPERTS)} experts")
            one = (0.0, 0.0)
            for count in given.counts:
                wall, cpu = medians(steps(lab, mix, count, given.batch_tokens))
                one = one if one[0] else (wall, cpu)
                speed = given.batch_tokens / wall
                print(
                    f"| {given.shape} | {mix} | {count} | {speed:,.0f} | {one[0] / (count * wall):.2f} | {cpu:.2f} "
                    f"| {one[1] / cpu:.2f} | {load_average():.1f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
