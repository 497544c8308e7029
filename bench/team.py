"""Time the fine-tune of a mix in one process with one thread and in two: python -m bench.team [--shape smollm2].

The target is 0.8 of twice the speed of one process. It makes random models on the spot (bench/gpu.py). A busy machine
gives two processes more of its time than one, so the load is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.gpu import MIXES, SHAPES, TRAINED, Lab, composed
from bench.processes import load_average, note
from composer import resources
from composer.progress import STAGE_SECONDS, measuring

COUNTS = (1, 2)


def seconds(lab: Lab, mix: str, count: int) -> float:
    """Return the seconds of a fine-tune by some processes, with the opening of the mix and the last gathering."""
    found: list[float] = []

    def listen(name: str, step: int, value: float) -> None:
        if name == f"fine-tune{STAGE_SECONDS}":
            found.append(value)

    os.environ[resources.PROCESSES_VARIABLE] = str(count)
    training: dict[str, Any] = {**TRAINED, "tokens": lab.tokens, "warm_start": False}
    with measuring(listen):
        composed(lab.registry("timed"), "timed", **{**MIXES[mix], "training": training})
    return sum(found)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8192)
    given = parser.parse_args()
    os.environ.setdefault("NEXUSMIX_EMBEDDER", "hashing:64")
    torch.set_num_threads(1)
    print(
        "| shape | mix | processes | tokens/s | of N times one | load |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), given.shape, 4000, given.tokens)
        lab.fill()
        for mix in MIXES:
            one = 0.0
            for count in COUNTS:
                note(f"{given.shape}, {mix}: {count} processes")
                speed = given.tokens / statistics.median(
                    seconds(lab, mix, count) for _ in range(given.rounds)
                )
                one = one or speed
                share = speed / (count * one)
                print(
                    f"| {given.shape} | {mix} | {count} | {speed:,.0f} | {share:.2f} | {load_average():.1f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
