"""Presets of a recipe, and the trunk that a recipe gets without one."""

from pathlib import Path

import pytest

from composer.errors import RecipeError
from composer.mix.presets import PRESETS
from composer.mix.recipe import Recipe, Training

BASE = {"name": "x", "seed": "s", "experts": ["a", "b"]}


def test_without_options_experts_stay_whole_and_nothing_is_trained() -> None:
    recipe = Recipe.parse(BASE)
    assert (recipe.trunk_merge.method, recipe.training.tokens) == ("routed", 0)
    assert Recipe.parse({**BASE, "preset": "whole"}) == recipe


@pytest.mark.parametrize(
    "options",
    [
        {"router": "linear"},
        {"top_k": 2},
        {"combine": "additive"},
        {"training": {"train": "ffn", "tokens": 1000}},
        {"training": Training(load_balance=0.1)},
        {"training": {"data_mix": "regmix"}},
        {"research": {"z_loss": 0.1}},
    ],
)
def test_an_option_that_only_a_merged_trunk_has_chooses_one(options: dict[str, object]) -> None:
    assert Recipe.parse({**BASE, **options}).trunk_merge.method == "regmean"


@pytest.mark.parametrize(
    "training",
    [{"random_seed": 3}, {"warm_start": False}, {"tokens": 0}, {"tokens": 500, "lora_rank": 4}],
)
def test_options_that_every_mix_has_choose_no_trunk(training: dict[str, object]) -> None:
    assert Recipe.parse({**BASE, "training": training}).trunk_merge.method == "routed"


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 0),
        ({"training": {"warm_start": False}}, 100_000),
        ({"training": {"warm_start": False, "tokens": 0}}, 0),
        ({"router": "recurrent"}, 100_000),
        ({"router": "recurrent", "training": {"tokens": 0}}, 0),
        ({"trunk_merge": "routed", "training": {"warm_start": False}}, 0),
    ],
)
def test_only_a_router_that_no_warm_start_solves_is_trained_by_default(
    options: dict[str, object], tokens: int
) -> None:
    assert Recipe.parse({**BASE, "preset": "merged", **options}).training.tokens == tokens


@pytest.mark.parametrize(
    "options",
    [{"train": "lora"}, {"learning_rate": 1e-4}, {"optimizer": "adafactor"}, {"dense_to_sparse": 0.5}],
)
@pytest.mark.parametrize("preset", ["merged", "whole"])
def test_options_of_a_fine_tune_without_tokens_are_refused(preset: str, options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"{next(iter(options))}: without tokens there is no fine-tune"):
        Recipe.parse({**BASE, "preset": preset, "training": options})


def test_the_papers_preset_is_the_paper_and_its_options_can_be_replaced() -> None:
    paper = Recipe.parse({**BASE, "preset": "paper"})
    assert (paper.router, paper.combine, paper.trunk_merge.method) == ("nexus", "additive", "mean")
    assert (paper.training.warm_start, paper.training.tokens) == (False, 100_000)
    shorter = Recipe.parse({**BASE, "preset": "paper", "combine": "convex", "training": {"tokens": 5000}})
    assert (shorter.combine, shorter.training.tokens, shorter.training.warm_start) == ("convex", 5000, False)


def test_a_merged_preset_without_options_is_the_merged_default() -> None:
    assert Recipe.parse({**BASE, "preset": "merged"}) == Recipe.parse({**BASE, "trunk_merge": "regmean"})


def test_an_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(RecipeError, match=f"no preset 'best'; expected one of {', '.join(PRESETS)}"):
        Recipe.parse({**BASE, "preset": "best"})


@pytest.mark.parametrize("recipe", [BASE, {**BASE, "preset": "merged"}, {**BASE, "preset": "paper"}])
def test_a_written_recipe_reads_back_as_it_was(recipe: dict[str, object], tmp_path: Path) -> None:
    parsed = Recipe.parse(recipe)
    (tmp_path / "recipe.yaml").write_text(parsed.to_yaml())
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == parsed


def test_an_option_of_the_command_line_reaches_a_file_before_its_trunk_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\nseed: s\nexperts: [a]\n")
    found = Recipe.from_yaml(tmp_path / "recipe.yaml", training={"tokens": 500})
    assert (found.trunk_merge.method, found.training.tokens) == ("routed", 500)
    merged = Recipe.from_yaml(tmp_path / "recipe.yaml", top_k=1)
    assert merged.trunk_merge.method == "regmean"
