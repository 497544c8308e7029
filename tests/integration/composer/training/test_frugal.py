"""A composition without room for its weights gives the same mix."""

from __future__ import annotations

import shutil
from pathlib import Path

import pico
import pytest

from composer.bits_per_byte import SCORES
from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.mix import opening
from composer.mix.recipe import Recipe
from composer.resources import memory_limit
from composer.tensors import weights
from composer.tensors.torch_blobs import map_tensors
from registry.home import Registry
from registry.intake.intake import add_seed, contribute


@pytest.fixture
def filled(registry: Registry, tmp_path: Path) -> Registry:
    """A registry with a bfloat16 seed and two experts."""
    seed = pico.write_pico(tmp_path / "seed", dtype="bfloat16")
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, tmp_path / name, seed=number)
        data = pico.write_documents(tmp_path / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    return registry


def recipe(name: str, trunk_merge: str) -> Recipe:
    return Recipe.parse(
        {
            "name": name,
            "seed": "pico",
            "experts": ["code", "math"],
            "trunk_merge": trunk_merge,
            "training": {"tokens": 0},
        }
    )


@pytest.mark.parametrize("trunk_merge", ["regmean", "routed"])
def test_a_mix_composed_and_measured_without_room_is_the_same(
    filled: Registry, trunk_merge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = filled
    roomy = compose(registry, recipe("roomy", trunk_merge))
    scores = evaluate(registry, "roomy", max_bytes=2000)
    shutil.rmtree(registry.home / "cache" / SCORES)
    monkeypatch.setattr(opening, "COMPUTED_AT_ONCE", 0)
    monkeypatch.setattr(weights, "PIECE", 500)
    with memory_limit(1):
        frugal = compose(registry, recipe("frugal", trunk_merge))
        again = evaluate(registry, "frugal", max_bytes=2000)
    for report, figures in roomy.manifest.training.items():
        assert frugal.manifest.training[report] == pytest.approx(figures, abs=0.01)
    for part in ("router", "trunk"):
        one, other = (
            map_tensors(registry.blobs.path(getattr(m, part))) for m in (roomy.manifest, frugal.manifest)
        )
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            # Least squares on these few pico states multiplies the rounding of other sums.
            assert (other[name] - tensor).float().norm() <= 0.05 * tensor.float().norm(), name
    assert again["mean"] == pytest.approx(scores["mean"], rel=1e-3)


def test_whole_experts_fine_tuned_without_room_lose_the_same(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"tokens": 512, "sequence_length": 64, "batch_tokens": 128, "warm_start": False}
    settings = {"seed": "pico", "experts": ["code", "math"], "training": training}
    roomy = compose(filled, Recipe.parse({"name": "roomy", **settings})).manifest.training
    monkeypatch.setattr(opening, "COMPUTED_AT_ONCE", 0)
    monkeypatch.setattr(weights, "PIECE", 500)
    shutil.rmtree(filled.home / "work", ignore_errors=True)
    with memory_limit(1):
        frugal = compose(filled, Recipe.parse({"name": "frugal", **settings})).manifest.training
    assert frugal["last_loss"] == pytest.approx(roomy["last_loss"], rel=1e-4)
    assert frugal["last_loss"] != frugal["first_loss"]
