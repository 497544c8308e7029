"""Time the shared forward passes in one process with one thread and in two: python -m bench.passes [--shape 60m].

The stages of a composition without the start of its processes, and an evaluation with it. It makes random models on the
spot (bench/gpu.py), so the scores mean nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.gpu import EXPERTS, MIXES, Lab
from bench.processes import load_average
from bench.team import COUNTS, parser_of
from composer import resources
from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.mix.recipe import Recipe

STAGES = {"whole": ("strengths",), "merged": ("trunk", "router")}


def seconds(lab: Lab, mix: str, count: int, max_bytes: int) -> dict[str, float]:
    """Return the seconds of a mix's passes by stage, in so many processes."""
    os.environ[resources.PROCESSES_VARIABLE] = str(count)
    registry = lab.registry("timed")
    recipe = Recipe.parse({"name": mix, "seed": "seed", "experts": list(EXPERTS), **MIXES[mix]})
    result = compose(registry, recipe)
    began = time.monotonic()
    evaluate(registry, mix, max_bytes=max_bytes)
    stages = {stage: result.stage_seconds[stage] for stage in STAGES[mix]}
    return {**stages, "evaluate": time.monotonic() - began}


def main() -> int:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--bytes", type=int, default=20_000)
    given = parser.parse_args()
    os.environ.setdefault("NEXUSMIX_EMBEDDER", "hashing:64")
    torch.set_num_threads(1)
    print("| shape | mix | passes | one process, s | two, s | ratio | load |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), given.shape, 4000, 0)
        lab.fill()
        for mix in given.mixes:
            one, two = (seconds(lab, mix, count, given.bytes) for count in COUNTS)
            for stage, alone in one.items():
                print(
                    f"| {given.shape} | {mix} | {stage} | {alone:.1f} | {two[stage]:.1f} | "
                    f"{alone / two[stage]:.2f} | {load_average():.1f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
