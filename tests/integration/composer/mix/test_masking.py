"""Masking in the use cases: generate and evaluate with a subset of a mix's experts."""

import pico
import pytest

from composer.composition import compose
from composer.errors import RecipeError
from composer.evaluation.evaluate import evaluate
from composer.generation import generate
from composer.mix.recipe import Recipe, Training
from registry.catalog import queries
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp("masking")
    opened = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed")
    add_seed(opened, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(opened, name, folder, seed="pico", license="MIT", data=[data])
    untrained = Training(warm_start=False, tokens=0)
    experts = ["code", "math"]
    recipe = Recipe(name="mix", seed="pico", experts=experts, trunk_merge="regmean", training=untrained)
    compose(opened, recipe)
    yield opened
    opened.engine.dispose()


def test_generation_uses_the_active_experts_only(registry):
    for active in ("code", "math@1"):
        result = generate(registry, "mix", "def ", max_new_tokens=6, active_experts=[active])
        other = {"code": "math@1", "math@1": "code@1"}[active]
        assert [token.experts[other] for token in result.tokens] == [0.0] * len(result.tokens)


def test_writing_uses_nothing_that_libraries_will_drop(registry, recwarn):
    generate(registry, "mix", "def ", max_new_tokens=3)
    assert [str(warning.message) for warning in recwarn if warning.category is FutureWarning] == []


def test_a_masked_evaluation_says_so_and_does_not_replace_the_mixs_own(registry):
    own = evaluate(registry, "mix", max_bytes=2000)
    masked = evaluate(registry, "mix", max_bytes=2000, active_experts=["math"])
    assert masked["active_experts"] == ["math@1"]
    assert all(shares == {"code@1": 0.0, "math@1": 1.0} for shares in masked["routing"].values())
    assert masked["mean"]["mix"] != own["mean"]["mix"]
    assert masked["mean"]["seed"] == own["mean"]["seed"]
    assert queries.get_mix(registry, "mix").evaluation == own


@pytest.mark.parametrize("active", [["cooking"], ["code@2"], []])
def test_active_experts_that_are_no_members_are_refused(registry, active):
    with pytest.raises(RecipeError):
        generate(registry, "mix", "def ", max_new_tokens=1, active_experts=active)
