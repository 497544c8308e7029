"""The paths of nexusmix that run models, on the CPU and on a second device: python -m device_paths FOLDER.

Prints {"cpu": {path: result}, "second": {path: result}} as JSON. A result that failed is the error's traceback.
"""

from __future__ import annotations

import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pico
from second_device import register, second_device
from torch.nn.attention import SDPBackend, sdpa_kernel

from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.evaluation.expert_measurement import measure_transfer
from composer.experts.train import train_expert
from composer.extension import extend
from composer.generation import generate
from composer.mix import opening
from composer.mix.recipe import Recipe, Training
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

SHORT: dict[str, Any] = {"tokens": 256, "sequence_length": 32, "batch_tokens": 128}
MERGED: dict[str, Any] = {"trunk_merge": "regmean", "router": "nexus_context"}


def fill(folder: Path) -> None:
    """Write a registry with a bfloat16 seed and three experts."""
    registry = open_registry(folder / "home")
    seed = pico.write_pico(folder / "seed", dtype="bfloat16")
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math", "law"), 1):
        expert = pico.branch_pico(seed, folder / name, seed=number)
        data = pico.write_documents(folder / f"{name}.jsonl", name)
        contribute(registry, name, expert, seed="pico", license="MIT", data=[data])
    registry.engine.dispose()


def paths(registry: Registry, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what is run, in order: later paths use the mixes of earlier ones."""

    def composed(name: str, **settings: Any) -> Any:
        recipe = {"name": name, "seed": "pico", "experts": ["code", "math"], "training": {"tokens": 0}}
        return _told(compose(registry, Recipe.parse({**recipe, **settings})).manifest)

    def extended(mix: str) -> Any:
        return _told(extend(registry, mix, "law", training=Training(tokens=0)).manifest)

    def scored(mix: str, **settings: Any) -> Any:
        return evaluate(registry, mix, max_bytes=400, oracle=True, **settings)["bits_per_byte"]

    def text(mix: str, temperature: float) -> str:
        settings = {"temperature": temperature, "top_p": 0.9, "top_k": 30, "active_experts": ["code"]}
        return generate(registry, mix, "def return", max_new_tokens=4, **settings).text

    yield "whole experts", lambda: composed("whole")
    yield "evaluate whole experts", lambda: scored("whole")
    yield "generate greedily", lambda: text("whole", 0)
    yield "sample", lambda: text("whole", 1.0)
    yield "fine-tune whole experts", lambda: composed("tuned", training=SHORT)
    yield "evaluate fine-tuned experts", lambda: scored("tuned")
    yield "extend whole experts", lambda: extended("whole")
    yield "merged trunk", lambda: composed("merged", **MERGED)
    yield "evaluate merged", lambda: scored("merged", dume=True)
    yield "extend merged", lambda: extended("merged")
    yield "evaluate extended", lambda: scored("merged")
    training = {**SHORT, "train": "all", "micro_batches": 2, "dense_to_sparse": 0.5, "data_mix": "regmix"}
    settings = {"training": {**training, "regmix_runs": 2, "regmix_tokens": 64}, "trunk_merge": "mean"}
    # The recurrent router is left out: torch has no fused GRU cell for this device.
    yield "fine-tune merged", lambda: composed("linear", router="linear", **settings)
    data, size = [folder / "law.jsonl"], SHORT
    yield "train an expert", lambda: train_expert(registry, "pico", data, folder / "o", **size).last_loss
    yield "measure an expert", lambda: measure_transfer(registry, "law", max_bytes=400)["bits_per_byte"]
    opening._fits = lambda nbytes, device: False
    yield "weights on demand", lambda: text("whole@1", 0)


def _told(manifest: Any) -> Any:
    """Return the report of a mix, and the digest of a routed trunk's router."""
    return {"router": manifest.router if manifest.routed_trunk else None, **manifest.training}


def results(folder: Path) -> dict[str, Any]:
    """Run all paths in a copy of the registry and return their results."""
    registry = open_registry(folder / "home")
    fits, found = opening._fits, {}
    try:
        for name, run in paths(registry, folder):
            try:
                # The CPU's faster attention rounds otherwise.
                with sdpa_kernel(SDPBackend.MATH):
                    found[name] = run()
            except Exception:
                found[name] = traceback.format_exc()
    finally:
        opening._fits = fits
    return found


def main(folder: Path) -> None:
    """Command line."""
    register()
    fill(folder / "cpu")
    shutil.copytree(folder / "cpu", folder / "second")
    found = {"cpu": results(folder / "cpu")}
    with second_device():
        found["second"] = results(folder / "second")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
