"""The predicted memory of a composition is near its measured peak."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.processes import run
from bench.random_llamas import Shape, write_llama
from composer.estimate import estimate
from composer.mix.recipe import Recipe
from registry.catalog.queries import get_parts
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

SHAPE = Shape(layers=4, hidden=512, ffn=1536, vocabulary=16_000, heads=8, kv_heads=4)
MEASURED = """
import sys
from composer.composition import compose
from composer.mix.recipe import Recipe
from registry.home import open_registry
compose(open_registry(), Recipe.parse(eval(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a random Llama of 37 million weights in bfloat16, and two experts of it."""
    folder = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXUSMIX_EMBEDDER", "hashing:16")
        registry = open_registry(folder / "home")
        write_llama(folder, "seed", SHAPE)
        add_seed(registry, "seed", folder / "seed", license="MIT")
        for name in ("one", "two"):
            write_llama(folder, name, SHAPE, like="seed")
            contribute(
                registry, name, folder / name, seed="seed", license="MIT", data=[folder / f"{name}.jsonl"]
            )
        registry.engine.dispose()
    return folder / "home"


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "whole", "training": {"tokens": 0}},
        {"name": "tuned", "training": {"tokens": 1024, "warm_start": False}},
        {"name": "merged", "trunk_merge": "regmean", "training": {"tokens": 0}},
        {
            "name": "shared",
            "trunk_merge": "mean",
            "training": {"tokens": 1024, "warm_start": False, "train": "lora"},
        },
    ],
    ids=lambda settings: settings["name"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_predicted_memory_of_a_composition_is_near_its_peak(home: Path, settings: dict[str, Any]) -> None:
    processes = 2 if settings["name"] == "shared" else 1
    recipe = {"seed": "seed", "experts": ["one", "two"], **settings}
    environment = {
        "NEXUSMIX_HOME": str(home),
        "NEXUSMIX_MEMORY": "2GiB",
        "NEXUSMIX_DEVICE": "cpu",
        "NEXUSMIX_DTYPE": "float32",
        "NEXUSMIX_NPROC": str(processes),
        "NEXUSMIX_EMBEDDER": "hashing:16",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        registry = open_registry()
        parsed = Recipe.parse(recipe)
        parts = get_parts(registry, parsed.seed, parsed.experts)
        predicted = estimate(registry, *parts, parsed.model_dump(mode="json"))
        registry.engine.dispose()
    used = run([sys.executable, "-c", MEASURED, repr(recipe)], {**os.environ, **environment})
    assert predicted.memory == pytest.approx(used.team * 1e6, rel=0.25)
    assert predicted.memory_each[0] == pytest.approx(used.anonymous * 1e6, rel=0.25)
    assert len(predicted.memory_each) == processes
