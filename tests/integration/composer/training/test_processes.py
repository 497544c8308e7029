"""A fine-tune that several processes share: the losses of one, resumed on another number, and the death of one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pico_registry import stocked_registry

from composer import processes
from composer.bits_per_byte import bits_per_byte
from composer.composition import compose
from composer.errors import ProcessLostError, RecipeError
from composer.evaluation.evaluate import evaluate
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from composer.model.on_demand import is_shared, replace_weights, weights_of
from composer.progress import measuring
from composer.training import warm_start
from composer.training.fine_tune import part_of
from composer.training.handover import hand_over, take_over
from composer.training.warm_start import trunk
from registry.catalog import queries

SHORT = {"tokens": 1344, "sequence_length": 32, "batch_tokens": 128}  # the last step has two of four rows
MERGED = {
    **SHORT,
    "warm_start": False,
    "learning_rate": 2e-3,
    "guidance": 0.3,
    "z_loss": 0.01,
    "balance_over": "global_batch",
    "micro_batches": 2,
    "train_router": True,
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry with a seed and three experts."""
    root = tmp_path_factory.mktemp("shared")
    registry = stocked_registry(root, ("code", "math", "law"))
    yield registry
    registry.engine.dispose()


def composed(registry, monkeypatch, name, training, count, progress=lambda *_: None, **settings):
    """The losses of a composition by some processes, and its manifest."""
    monkeypatch.setenv("NEXUSMIX_NPROC", str(count))
    losses = {}

    def note(metric, step, value):
        if metric == "loss":
            losses[step] = value

    recipe = Recipe(
        name=name, seed="pico", experts=["code", "math"], training=Training(**training), **settings
    )
    with measuring(note):
        result = compose(registry, recipe, progress=progress)
    return list(losses.values()), result.manifest


def assert_close(registry, one, other):
    """Two mixes have nearly equal weights."""
    first, second = (open_mix(registry, m, dtype=torch.float32).model.state_dict() for m in (one, other))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-4, rtol=0, msg=name)


@pytest.fixture
def too_small_to_replicate(monkeypatch):
    """A limit of memory that shards the trained weights among the processes."""
    monkeypatch.setenv("NEXUSMIX_MEMORY", "100KiB")


@pytest.mark.usefixtures("too_small_to_replicate")
def test_two_processes_have_the_losses_of_one_with_a_merged_trunk(registry, monkeypatch):
    settings = {"trunk_merge": "mean"}
    one, first = composed(registry, monkeypatch, "one", MERGED, 1, **settings)
    two, second = composed(registry, monkeypatch, "two", MERGED, 2, **settings)
    assert two == pytest.approx(one, abs=1e-4)
    assert one[-1] < one[0] - 0.05
    assert_close(registry, first, second)
    assert first.lock == second.lock


def test_two_processes_have_the_losses_of_one_with_whole_experts(registry, monkeypatch):
    one, first = composed(registry, monkeypatch, "whole-one", SHORT, 1)
    two, second = composed(registry, monkeypatch, "whole-two", SHORT, 2)
    assert two == pytest.approx(one, abs=1e-4)
    assert_close(registry, first, second)


class Interrupted(Exception):
    """Simulates an interruption from outside."""


def stop_at(step):
    def progress(stage, done, total):
        if stage == "fine-tuning" and done == step:
            raise Interrupted

    return progress


@pytest.mark.parametrize(("before", "after", "train"), [(2, 1, "all"), (1, 2, "lora")])
@pytest.mark.usefixtures("too_small_to_replicate")
def test_a_run_resumes_on_another_number_of_processes(registry, monkeypatch, before, after, train):
    settings = {"trunk_merge": "mean"}
    training = {**MERGED, "random_seed": before, "train": train}
    whole, first = composed(registry, monkeypatch, f"whole-{before}", training, 1, **settings)
    with pytest.raises(Interrupted):
        composed(registry, monkeypatch, "resumed", training, before, stop_at(7), **settings)
    steps = []
    resumed, second = composed(
        registry,
        monkeypatch,
        "resumed",
        training,
        after,
        lambda stage, done, total: steps.append(done) if stage == "fine-tuning" else None,
        **settings,
    )
    assert steps[0] > 1, "it began from a checkpoint"
    assert resumed == pytest.approx(whole, abs=1e-4)
    assert_close(registry, first, second)


def test_a_killed_process_is_an_error_and_the_same_command_resumes(registry, monkeypatch):
    training = {**SHORT, "random_seed": 7}

    def kill_at_five(stage, done, total):
        if stage == "fine-tuning" and done == 5:
            (helper,) = processes.current().helpers
            os.kill(helper.process.pid, signal.SIGKILL)

    mixes = len(queries.list_mixes(registry))
    with pytest.raises(ProcessLostError, match="process 2 of 2 ended: it was killed by signal 9"):
        composed(registry, monkeypatch, "killed", training, 2, kill_at_five)
    assert len(queries.list_mixes(registry)) == mixes
    steps = []
    composed(
        registry,
        monkeypatch,
        "killed",
        training,
        2,
        lambda stage, done, total: steps.append(done) if stage == "fine-tuning" else None,
    )
    assert steps[0] > 1, "it began from a checkpoint"
    assert find_mix(registry, "killed")[0].version == 1


def test_two_processes_find_the_strengths_of_one(tmp_path, monkeypatch):
    found = []
    for count in (1, 2):
        registry = stocked_registry(tmp_path / str(count), ("code", "math"))
        losses = {}
        monkeypatch.setenv("NEXUSMIX_NPROC", str(count))
        with measuring(lambda *metric, losses=losses: losses.setdefault(metric[:2], metric[2])):
            compose(registry, Recipe(name="whole", seed="pico", experts=["code", "math"]))
        found.append({metric: loss for metric, loss in losses.items() if metric[0].startswith("strength of")})
        registry.engine.dispose()
    one, two = found
    assert len(one) == 6, "three forward passes per expert"
    assert two == pytest.approx(one, rel=1e-6)


def test_two_processes_sum_the_inputs_of_the_trunk_as_one_does(registry, monkeypatch):
    """The sums agree within 1e-6 of the largest; solving for weights amplifies this, so scores are compared."""
    measure, sums, bits = trunk.Grams.measure, [], []

    def noted(grams, *rest):
        tokens = measure(grams, *rest)
        sums[-1].extend(gram.clone() for gram in grams.found.values())
        return tokens

    monkeypatch.setattr(trunk.Grams, "measure", noted)
    for count in (1, 2):
        sums.append([])
        settings = {"tokens": 0}
        _, manifest = composed(
            registry, monkeypatch, f"fitted-{count}", settings, count, trunk_merge="regmean", router="nexus"
        )
        assert manifest.trunk != manifest.seed.trunk
        monkeypatch.setenv("NEXUSMIX_NPROC", "1")
        bits.append(evaluate(registry, f"fitted-{count}", max_bytes=2_000)["mean"]["mix"])
    one, two = sums
    assert len(one) == len(two) > 0
    for gram, shared in zip(one, two, strict=True):
        torch.testing.assert_close(shared, gram, atol=1e-6 * gram.abs().max().item(), rtol=0)
    assert bits[1] == pytest.approx(bits[0], abs=1e-4)


@pytest.mark.parametrize(
    ("router", "trunk_merge"), [("nexus", "regmean"), ("nexus_context", "mean"), ("recurrent", "mean")]
)
def test_two_processes_solve_the_routers_of_one(registry, monkeypatch, router, trunk_merge):
    passed = []
    run = warm_start.Pass.run
    monkeypatch.setattr(
        warm_start.Pass, "run", lambda own, part: (passed.append(len(part.rows)), run(own, part))
    )
    found = []
    for count in (1, 2):
        name = f"{router}-{trunk_merge}-{count}".replace("_", "-")
        settings = {"tokens": 0}
        found.append(
            composed(registry, monkeypatch, name, settings, count, router=router, trunk_merge=trunk_merge)[1]
        )
    one, two = found
    assert passed[0] == pytest.approx(2 * passed[1], abs=1), "each process passes half of the rows forward"
    assert two.training["warm_start"] == pytest.approx(one.training["warm_start"], abs=1e-2)
    monkeypatch.setenv("NEXUSMIX_NPROC", "1")
    refs = (f"{router}-{trunk_merge}-1", f"{router}-{trunk_merge}-2")
    first, second = (
        evaluate(registry, ref.replace("_", "-"), max_bytes=2_000)["mean"]["mix"] for ref in refs
    )
    assert second == pytest.approx(first, abs=1e-3)


@pytest.mark.parametrize("at_once", [0, 2**30])
def test_another_process_takes_over_weights_that_are_computed_on_demand(tmp_path, monkeypatch, at_once):
    """Those of a real seed in bfloat16, with one weight as embeddings and head."""
    registry = stocked_registry(tmp_path, ("code", "math"), dtype="bfloat16", tie_word_embeddings=True)
    _, manifest = composed(registry, monkeypatch, "mix", {"tokens": 0}, 1, trunk_merge="regmean")
    monkeypatch.setattr("composer.mix.opening.COMPUTED_AT_ONCE", at_once)
    ours, theirs = (open_mix(registry, manifest, dtype=torch.float32).model for _ in range(2))
    is_trunk = {name for name in weights_of(ours) if part_of(name) == "trunk"}
    replace_weights(ours, {name: weights_of(ours)[name].value(torch.float32) + 0.5 for name in is_trunk})
    hand_over(ours, is_trunk.__contains__, tmp_path / "trunk.safetensors")
    take_over(theirs, tmp_path / "trunk.safetensors")
    for name, weight in weights_of(ours).items():
        torch.testing.assert_close(weights_of(theirs)[name].value(torch.float32), weight.value(torch.float32))
    assert is_shared(theirs.get_input_embeddings(), theirs.get_output_embeddings())
    registry.engine.dispose()


def test_two_processes_share_an_evaluation_and_find_the_scores_of_one(tmp_path, monkeypatch):
    found, scored_here = [], []

    def counted(model, text, **settings):
        scored_here[-1] += 1
        return bits_per_byte(model, text, **settings)

    for count in (1, 2):
        registry = stocked_registry(tmp_path / str(count), ("code", "math"))
        compose(registry, Recipe(name="whole", seed="pico", experts=["code", "math"]))
        scored_here.append(0)
        with monkeypatch.context() as patched:
            patched.setenv("NEXUSMIX_NPROC", str(count))
            patched.setattr("composer.bits_per_byte.bits_per_byte", counted)
            found.append(evaluate(registry, "whole", dume=True))
        registry.engine.dispose()
    one, two = found
    assert 0 < scored_here[1] < scored_here[0]
    assert set(two["bits_per_byte"]["code"]) >= {"seed", "expert", "btm", "dense_merging", "dume", "mix"}
    for domain, row in one["bits_per_byte"].items():
        assert two["bits_per_byte"][domain] == pytest.approx(row, rel=1e-6)
    assert two["routing"] == one["routing"] and two["changing"] == one["changing"]


def test_a_process_killed_while_strengths_are_measured_is_an_error(tmp_path, monkeypatch):
    registry = stocked_registry(tmp_path, ("code", "math"))
    monkeypatch.setenv("NEXUSMIX_NPROC", "2")

    def kill(metric, step, value):
        if metric == "strength of code@1":
            (helper,) = processes.current().helpers
            os.kill(helper.process.pid, signal.SIGKILL)

    with measuring(kill), pytest.raises(ProcessLostError, match="process 2 of 2 ended: it was killed"):
        compose(registry, Recipe(name="whole", seed="pico", experts=["code", "math"]))
    assert queries.list_mixes(registry) == []
    registry.engine.dispose()


def test_processes_that_cannot_share_a_step_equally_are_an_error(registry, monkeypatch):
    with pytest.raises(RecipeError, match="3 processes cannot share the 4 rows"):
        composed(registry, monkeypatch, "odd", SHORT, 3)


def test_an_extension_is_shared_under_torchrun_and_published_once(registry, monkeypatch, tmp_path):
    composed(registry, monkeypatch, "base", {"tokens": 0}, 1)
    command = ["extend", "base", "law", "--tokens", "4k", "--json"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nexusmix"]
    ran = subprocess.run(
        [sys.executable, "-m", *launcher, "--home", str(registry.home), *command],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count('"base@2"') == 1
    assert find_mix(registry, "base")[0].version == 2
