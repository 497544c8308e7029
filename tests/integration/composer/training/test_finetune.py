"""The fine-tune of a real mix: trained parameters per mode, memory options, and resuming after an interruption."""

import pico
import pytest
import torch
from pico_registry import stocked_registry

from composer.composition import compose
from composer.errors import RecipeError
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from composer.model.modeling import NexusMLP
from composer.training.data_mix import choose_shares, search
from composer.training.fine_tune import finetune
from composer.training.trainer import Schedule, _arguments

UNTRAINED = Training(warm_start=False, tokens=0)
SHORT = Training(warm_start=False, tokens=4096, sequence_length=64, batch_tokens=256, learning_rate=2e-3)
TEXTS = {f"{name}@1": pico.domain_documents(name) for name in ("code", "math")}
EQUAL = dict.fromkeys(TEXTS, 0.5)


class Interrupted(Exception):
    """Simulates an interruption from outside."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry with a seed, two experts and an untrained mix of them for each router."""
    root = tmp_path_factory.mktemp("tuning")
    registry = stocked_registry(root, ("code", "math"))
    for router in ("nexus", "recurrent", "random"):
        compose(registry, recipe(router, UNTRAINED, router=router))
    yield registry
    registry.engine.dispose()


def recipe(name, training, **settings):
    experts = ["code", "math"]
    return Recipe(name=name, seed="pico", experts=experts, training=training, trunk_merge="mean", **settings)


def opened(registry, name="nexus"):
    return open_mix(registry, find_mix(registry, name)[1], dtype=torch.float32)


def tuned(registry, folder, name="nexus", progress=lambda *_: None, **changes):
    """Losses and weights after a fine-tune of a newly opened mix."""
    mix = opened(registry, name)
    losses = finetune(mix, TEXTS, EQUAL, SHORT.model_copy(update=changes), folder, progress)
    return losses, mix.model.state_dict()


@pytest.mark.parametrize(
    ("train", "changes"),
    [
        ("router", {"router"}),
        ("trunk", {"trunk"}),
        ("ffn", {"shared", "ffns"}),
        ("all", {"trunk", "shared", "ffns"}),
    ],
)
def test_each_mode_writes_the_blobs_that_it_trains_and_no_other(registry, train, changes):
    before = find_mix(registry, "nexus")[1]
    training = SHORT.model_copy(update={"train": train, "train_router": train == "router"})
    after = compose(registry, recipe(f"mode-{train}", training)).manifest
    parts = [
        {"router": m.router, "trunk": m.trunk, "shared": m.shared, "ffns": [e.ffn for e in m.members]}
        for m in (before, after)
    ]
    assert {name for name in parts[0] if parts[0][name] != parts[1][name]} == changes


def test_a_fixed_router_has_nothing_to_train_alone(registry, tmp_path):
    with pytest.raises(RecipeError, match="random router is fixed"):
        tuned(registry, tmp_path, "random", train="router")


def test_micro_batches_and_checkpointing_give_the_losses_of_whole_batches(registry, tmp_path, monkeypatch):
    passes = []
    forward = NexusMLP.forward
    monkeypatch.setattr(NexusMLP, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    changes = {"load_balance": 0.0, "z_loss": 0.01, "train_router": True}
    whole, _ = tuned(registry, tmp_path / "whole", **changes)
    assert whole[-1] < whole[0] - 0.1
    once = len(passes)
    split, _ = tuned(registry, tmp_path / "split", micro_batches=4, **changes)
    assert split == pytest.approx(whole, abs=2e-3)
    assert len(passes) == 5 * once
    again, _ = tuned(registry, tmp_path / "again", gradient_checkpointing=True, **changes)
    assert again == pytest.approx(whole, abs=2e-3)
    assert len(passes) == 7 * once, "every block ran a second time"


@pytest.mark.parametrize("name", ["nexus", "recurrent"])
def test_an_interrupted_fine_tune_resumes_to_the_same_losses_and_weights(registry, tmp_path, name):
    """The run restores the optimizer, the order of rows, the temperature schedule and the noise of dense routing."""
    changes = {
        "dense_to_sparse": 0.8,
        "balance_over": "global_batch",
        "micro_batches": 2,
        "train_router": True,
    }

    def stop(stage, done, total):
        if done == 10:
            raise Interrupted

    with pytest.raises(Interrupted):
        tuned(registry, tmp_path / "stopped", name, stop, **changes)
    steps = []
    resumed = tuned(
        registry, tmp_path / "stopped", name, lambda stage, done, total: steps.append(done), **changes
    )
    whole = tuned(registry, tmp_path / "whole", name, **changes)
    assert steps[0] > 1, "it began from a checkpoint, not from nothing"
    assert resumed[0] == whole[0]
    assert all(torch.equal(tensor, whole[1][key]) for key, tensor in resumed[1].items())


def test_an_interrupted_search_for_a_data_mix_resumes_and_leaves_the_mix_unchanged(registry, tmp_path):
    training = SHORT.model_copy(update={"regmix_runs": 4, "regmix_tokens": 512})
    mix = opened(registry)
    before = {name: tensor.clone() for name, tensor in mix.model.state_dict().items()}

    def stop(stage, done, total):
        if done == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        search(mix, TEXTS, training, tmp_path / "stopped", stop)
    stages = []
    resumed = search(
        mix, TEXTS, training, tmp_path / "stopped", lambda stage, done, total: stages.append(done)
    )
    assert stages == [2, 3]
    assert resumed == search(opened(registry), TEXTS, training, tmp_path / "whole")
    assert sum(resumed.shares.values()) == pytest.approx(1)
    assert resumed.tokens == 4 * 512
    for name, tensor in mix.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_recipe_can_ask_for_each_data_mix(registry, tmp_path):
    training = SHORT.model_copy(update={"data_mix": "regmix", "regmix_runs": 3, "regmix_tokens": 256})
    report = compose(registry, recipe("searched", training)).manifest.training["data_mix"]
    assert report["shares"].keys() == TEXTS.keys()
    assert report["tokens"] == 3 * 256
    one = {"code@1": ["x" * 30], "math@1": ["y" * 10]}
    by_text = SHORT.model_copy(update={"data_mix": "proportional"})
    assert choose_shares(opened(registry), one, None, by_text, tmp_path) == (
        {"code@1": 0.75, "math@1": 0.25},
        {},
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in bfloat16 where it can")
def test_a_processor_trains_in_float32(tmp_path):
    arguments = _arguments(Schedule(1e-3, batch_rows=2, random_seed=0), 4, tmp_path)
    assert not arguments.bf16 and not arguments.fp16
