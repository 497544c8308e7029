"""Research options: a block of the recipe that sets flat fields, and verdicts with figures that were measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from composer.errors import RecipeError
from composer.mix.lock import Settings, canonical_json
from composer.mix.recipe import Recipe, Training
from composer.mix.research import OPTIONS
from composer.variants import ROUTERS, RouterVariant

ROOT = Path(__file__).parents[4]
BASE: dict[str, Any] = {"name": "x", "seed": "s", "experts": ["a", "b"]}
OF_RECIPE = {
    "router": "recurrent",
    "trunk_merge": {"method": "ties", "density": 0.3},
    "top_p": 0.9,
    "null_experts": 1,
}
OF_TRAINING = {
    "train_router": True,
    "data_mix": "regmix",
    "regmix_runs": 4,
    "regmix_tokens": 64,
    "balance_over": "global_batch",
    "z_loss": 0.001,
    "entropy": 0.01,
    "dense_to_sparse": 0.5,
}


def lock_settings(recipe: Recipe) -> bytes:
    """The bytes of the settings in a lock of this recipe."""
    settings = Settings.model_validate(recipe.model_dump(exclude={"name", "seed", "experts"}))
    return canonical_json(settings.model_dump(exclude_unset=True))


def test_every_option_is_a_field_of_the_part_that_the_table_names() -> None:
    assert OPTIONS.keys() == {**OF_RECIPE, **OF_TRAINING}.keys()
    for name, option in OPTIONS.items():
        assert name in (Training if option.training else Recipe).model_fields


def test_a_block_equals_flat_fields_in_every_dump_and_in_the_lock() -> None:
    flat = Recipe.parse({**BASE, **OF_RECIPE, "training": {"tokens": 10, **OF_TRAINING}})
    block = Recipe.parse(
        {**BASE, "training": {"tokens": 10}, "research": {**OF_RECIPE, **OF_TRAINING}},
    )
    assert block == flat
    assert block.model_dump() == flat.model_dump() and "research" not in flat.model_dump()
    assert block.model_dump_json() == flat.model_dump_json()
    assert lock_settings(block) == lock_settings(flat)


def test_a_block_leaves_the_given_training_as_it_is() -> None:
    training = Training(tokens=10, warm_start=False)
    assert Recipe.parse({**BASE, "training": training, "research": {"z_loss": 0.5}}).training == (
        training.model_copy(update={"z_loss": 0.5})
    )
    assert Recipe.parse({**BASE, "research": {"top_p": 0.5}}).training == Training()


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_block_changes_nothing(empty: object) -> None:
    assert Recipe.parse({**BASE, "research": empty}) == Recipe.parse(BASE)


def test_the_same_value_in_both_places_is_no_conflict() -> None:
    values = {**BASE, "top_p": 0.9, "training": {"z_loss": 0.001}}
    assert Recipe.parse({**values, "research": {"top_p": 0.9, "z_loss": 0.001}}) == Recipe.parse(values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"top_p": 0.8, "research": {"top_p": 0.9}},
            r"top_p is 0\.8, but research\.top_p is 0\.9; remove one",
        ),
        ({"training": {"z_loss": 0}, "research": {"z_loss": 1}}, r"training\.z_loss is 0, but .*z_loss is 1"),
        (
            {"research": {"colour": 1, "top_p": 0.9}},
            "research: unknown colour; expected some of router, .*top_p",
        ),
        ({"research": {"tokens": 1}}, "unknown tokens"),
        ({"research": ["top_p"]}, "research: expected a mapping of options, got list"),
        ({"research": {"z_loss": -1}}, "z_loss: Input should be greater"),
        ({"research": {"z_loss": 1}, "training": 3}, "training: expected a mapping of options, got int"),
    ],
)
def test_a_block_that_is_wrong_is_refused(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=reason):
        Recipe.parse({**BASE, **values})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**BASE, **values}))
    with pytest.raises(RecipeError, match=reason):
        Recipe.from_yaml(path)


def test_an_override_replaces_an_option_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**BASE, "research": {"top_p": 0.9, "z_loss": 1.0}}))
    recipe = Recipe.from_yaml(path, top_p=0.5)
    assert (recipe.top_p, recipe.training.z_loss) == (0.5, 1.0)


def test_a_recipe_is_written_with_its_research_options_in_the_block(tmp_path: Path) -> None:
    recipe = Recipe.parse({**BASE, **OF_RECIPE, "training": {"tokens": 10, **OF_TRAINING}})
    written = yaml.safe_load(recipe.to_yaml())
    merge = {"method": "ties", "density": 0.3, "scale": 1.0}
    assert written["research"] == {**OF_RECIPE, **OF_TRAINING, "trunk_merge": merge}
    assert not (written.keys() | written["training"].keys()) & OPTIONS.keys()
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(path) == recipe


def test_a_proven_recipe_is_written_without_a_block() -> None:
    written = yaml.safe_load(Recipe.parse({**BASE, "router": "linear", "trunk_merge": "mean"}).to_yaml())
    assert "research" not in written and "z_loss" not in written["training"]
    assert (written["router"], written["trunk_merge"]) == ("linear", "mean")
    assert written["training"]["data_mix"] == "uniform"
    short = Recipe.parse({**BASE, "research": {"z_loss": 0.5}}).written(exclude_defaults=True)
    assert short == {**BASE, "trunk_merge": "regmean", "research": {"z_loss": 0.5}}


def test_the_block_in_the_documents_is_valid() -> None:
    text = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert Recipe.parse({**BASE, **yaml.safe_load(example)}).written()["research"].keys() == {
        "top_p",
        "z_loss",
        "trunk_merge",
    }


def test_every_verdict_is_there_and_its_figures_were_measured() -> None:
    results = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    _, _, section = results.partition("## Routers and selections of experts")
    verdicts = [row.verdict for option in OPTIONS.values() for row in option.rows()]
    verdicts += [option.verdict for option in OPTIONS.values() if option.variants is None]
    figures = [figure for verdict in verdicts for figure in re.findall(r"\d\.\d+", verdict)]
    assert all(verdicts) and len(figures) >= 8
    assert [figure for figure in figures if figure not in section.partition("\n## ")[0]] == []


def test_a_router_that_no_training_changes_is_refused_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = RouterVariant("fixed", "Fixed", "Never changes.", "x:Y", trainable=False)
    monkeypatch.setitem(ROUTERS, "fixed", fixed)
    values = {**BASE, "router": "fixed", "training": {"train": "router", "tokens": 10}}
    with pytest.raises(RecipeError, match="no training changes the router fixed"):
        Recipe.parse(values)
    assert Recipe.parse({**values, "training": {"train": "router", "tokens": 0}}).router == "fixed"
    assert Recipe.parse({**values, "router": "recurrent"}).router == "recurrent"
