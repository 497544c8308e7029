"""Every router and every selection of experts through all steps: compose, train, evaluate, extend, export."""

import pico
import pytest
import torch

from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.extension import extend, remove
from composer.formats import export
from composer.generation import generate
from composer.mix.opening import open_mix
from composer.mix.recipe import Recipe, Training
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

SHORT = Training(tokens=1024, sequence_length=64, batch_tokens=256, learning_rate=2e-3)
WAYS = {
    "nexus": {},
    "linear": {"router": "linear"},
    "recurrent": {"router": "recurrent"},
    "random": {"router": "random"},
    "top-2": {"top_k": 2},
    "top-p": {"top_p": 0.6},
    "null experts": {"top_k": 2, "null_experts": 1},
    "recurrent, top-p, null experts": {"router": "recurrent", "top_p": 0.6, "null_experts": 2},
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry with a seed and the experts code, math and cooking."""
    root = tmp_path_factory.mktemp("routing")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed", initializer_range=0.2)
    add_seed(registry, "pico", seed, license="Apache-2.0")
    for number, name in enumerate(("code", "math", "cooking"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    yield registry
    registry.engine.dispose()


@pytest.mark.parametrize("way", WAYS)
def test_a_mix_composes_trains_evaluates_extends_writes_and_leaves(registry, tmp_path, way):
    name = "".join(c for c in way if c.isalnum())
    training = SHORT.model_copy(update={"train_router": True})
    recipe = Recipe(
        name=name,
        seed="pico",
        experts=["code", "math"],
        training=training,
        **{"trunk_merge": "regmean", **WAYS[way]},
    )
    first = compose(registry, recipe).manifest
    assert first.training["last_loss"] < first.training["first_loss"]
    extended = extend(registry, name, "cooking", training=SHORT)
    assert extended.mix.ref == f"{name}@2"
    evaluation = evaluate(registry, name)
    assert evaluation["bits_per_byte"].keys() == {"code", "math", "cooking"}
    for domain, shares in evaluation["routing"].items():
        assert sum(shares.values()) == pytest.approx(1)
        assert evaluation["bits_per_byte"][domain]["mix"] < evaluation["bits_per_byte"][domain]["seed"]
    assert generate(registry, name, "def ", max_new_tokens=4).tokens
    assert_exported_alike(registry, name, extended.manifest, tmp_path / "out")
    assert remove(registry, name, "cooking").manifest.members[-1].expert.ref == "math@1"


def assert_exported_alike(registry, name, manifest, folder):
    """Assert that the folder's own modeling code computes the mix's logits."""
    from transformers import AutoModelForCausalLM

    mix = open_mix(registry, manifest)
    export(registry, name, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="auto").eval()
    assert type(model).__module__ != "composer.model.modeling"
    ids = mix.tokenizer("def return import flour butter theorem proof", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, mix.model(ids).logits, atol=1e-5, rtol=0)


def test_how_many_experts_a_token_takes_is_reported(registry):
    untrained = Training(tokens=0, warm_start=False)
    counts = {}
    for name, settings in {
        "one": {},
        "two": {"top_k": 2},
        "few": {"top_p": 0.55},
        "every": {"top_p": 1},
    }.items():
        settings = {"trunk_merge": "regmean", **settings}
        recipe = Recipe(name=name, seed="pico", experts=["code", "math"], training=untrained, **settings)
        compose(registry, recipe)
        counts[name] = evaluate(registry, name)["experts_per_token"]["code"]
    assert (counts["one"], counts["two"], counts["every"]) == (1, 2, 2)
    assert 1 < counts["few"] < 2
