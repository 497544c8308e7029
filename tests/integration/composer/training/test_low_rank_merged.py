"""A merged mix whose fine-tune trains low-rank differences: stored small, opened, exported, extended."""

import pytest
import torch
from pico_registry import stocked_registry

from composer.composition import compose
from composer.extension import extend
from composer.mix.opening import open_mix
from composer.mix.recipe import LORA_LEARNING_RATE, Recipe, Training
from composer.tensors.stream import stored_tensors
from composer.tensors.weights import mapped
from composer.variants import EXPORT_FORMATS

LORA = {"tokens": 1280, "train": "lora", "lora_rank": 4, "sequence_length": 32, "batch_tokens": 128}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry with a seed and three experts."""
    root = tmp_path_factory.mktemp("low-rank")
    registry = stocked_registry(root, ("code", "math", "law"))
    yield registry
    registry.engine.dispose()


def composed(registry, name, training, **settings):
    recipe = Recipe(
        name=name,
        seed="pico",
        experts=["code", "math"],
        training=Training(**training),
        **{"trunk_merge": "regmean", **settings},
    )
    return compose(registry, recipe)


@pytest.fixture(scope="module")
def tuned(registry):
    """A mix after a low-rank fine-tune."""
    return composed(registry, "tuned", LORA)


def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(5, 37)[None]).logits


def test_a_low_rank_fine_tune_stores_differences_and_copies_no_expert(registry, tuned):
    manifest = tuned.manifest
    assert manifest.shared == manifest.seed.ffn
    assert [member.ffn for member in manifest.members] == [m.expert.ffn for m in manifest.members]
    pairs = stored_tensors(registry.blobs, manifest.difference)
    assert {info.dtype for info in pairs.values()} == {"F32"}
    places = {name.split(".")[3:-2][0] + name.split(".")[-2] for name in pairs}
    assert {"self_attnq_proj", "mlpup_proj"} <= places
    assert any(".mlp.experts.1." in name for name in pairs)
    assert manifest.difference in manifest.blobs()
    assert manifest.training["last_loss"] < manifest.training["first_loss"]
    assert Training(**LORA).learning_rate == LORA_LEARNING_RATE


def test_the_differences_are_part_of_the_opened_mix(registry, tuned):
    plain = tuned.manifest.model_copy(update={"difference": None})
    with_them, without = (open_mix(registry, m, dtype=torch.float32).model for m in (tuned.manifest, plain))
    assert (logits(with_them) - logits(without)).abs().max() > 1e-3


@pytest.mark.parametrize("format", ["nexus", "qwen2_moe"])
def test_an_export_contains_the_differences(registry, tuned, format):
    plan = EXPORT_FORMATS.find(format).load().plan(registry.blobs, tuned.manifest, "F32")
    name = next(n for n in plan.tensors if n.endswith("layers.0.self_attn.q_proj.weight"))
    model = open_mix(registry, tuned.manifest, dtype=torch.float32).model
    weight = model.get_submodule("language_model.model.layers.0.self_attn.q_proj").weight
    rows = torch.from_numpy(plan.tensors[name].rows(0, len(weight), "F32").copy())
    torch.testing.assert_close(rows, weight.detach())


@pytest.mark.parametrize("tokens", [0, 640])
def test_an_extension_keeps_the_differences(registry, tuned, tokens):
    training = Training(**{**LORA, "tokens": tokens, "warm_start": False})
    extended = extend(registry, tuned.mix.ref, "law", training=training).manifest
    old, new = (stored_tensors(registry.blobs, m.difference) for m in (tuned.manifest, extended))
    name = "model.layers.0.mlp.experts.0.up_proj.lora_A"
    assert new[name].shape[0] == (4 if tokens == 0 else 8)
    assert old.keys() <= new.keys()
    assert any(".experts.2." in each for each in new) == bool(tokens)
    if (
        not tokens
    ):  # the trunk is (1 − 1/3) of the old one, with its difference, and a third of the new expert's
        before, after = (open_mix(registry, m, dtype=torch.float32).model for m in (tuned.manifest, extended))
        place = "language_model.model.layers.0.self_attn.q_proj"
        expert = next(m.expert for m in extended.members if m.expert.ref.startswith("law"))
        info = stored_tensors(registry.blobs, expert.trunk)["model.layers.0.self_attn.q_proj.weight"]

        expected = before.get_submodule(place).weight * 2 / 3 + mapped(info).float() / 3
        torch.testing.assert_close(after.get_submodule(place).weight, expected, atol=2e-3, rtol=1e-2)


def test_whole_experts_train_low_rank_differences_with_that_name_too():
    recipe = Recipe.parse(
        {"name": "x", "seed": "pico", "experts": ["code"], "training": {"tokens": 100, "train": "lora"}}
    )
    plain = Recipe.parse({"name": "x", "seed": "pico", "experts": ["code"], "training": {"tokens": 100}})
    assert recipe == plain
    assert recipe.trunk_merge.routed
