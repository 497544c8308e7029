"""The trainer: repeatable, resumable after kill −9, and stopped by a NaN loss."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pico
import pytest
import torch
from datasets import Dataset
from library_warnings import library_warnings

from composer.errors import MissingExtraError, RecipeError, TrainingDivergedError
from composer.experts.train import train_expert
from composer.training.trainer import Schedule, fit, newest_sound_checkpoint
from registry.catalog import queries
from registry.errors import StorageError
from registry.intake.intake import add_seed, contribute

SCHEDULE = Schedule(learning_rate=1e-3, batch_rows=4, random_seed=5, checkpoints=4)


def rows(count=64, length=16):
    ids = torch.randint(3, 260, (count, length), generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")


class Interrupted(Exception):
    """Simulates an interruption from outside."""


def interrupt_at(step):
    def progress(stage, done, total):
        if done == step:
            raise Interrupted

    return progress


def trained(folder, progress=lambda *_: None):
    model = pico.pico_model()
    losses = fit(model, rows(), model.parameters(), SCHEDULE, folder, stage="t", progress=progress)
    return losses, model.state_dict()


def test_the_same_random_seed_gives_the_same_losses_and_weights(tmp_path):
    (first, one), (second, two) = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert first == second
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_an_interrupted_run_resumes_to_the_same_losses_and_weights(tmp_path):
    with pytest.raises(Interrupted):
        trained(tmp_path / "a", interrupt_at(10))
    assert newest_sound_checkpoint(tmp_path / "a").name == "checkpoint-8"
    resumed, whole = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert resumed[0] == whole[0]
    assert all(torch.equal(tensor, whole[1][name]) for name, tensor in resumed[1].items())


def test_adafactor_trains_with_less_state_and_resumes(tmp_path):
    schedule = replace(SCHEDULE, optimizer="adafactor")

    def run(folder, progress=lambda *_: None):
        model = pico.pico_model()
        return fit(model, rows(), model.parameters(), schedule, folder, stage="t", progress=progress)

    with pytest.raises(Interrupted):
        trained(tmp_path / "adamw", interrupt_at(10))
    with pytest.raises(Interrupted):
        run(tmp_path / "a", interrupt_at(10))
    sizes = [(tmp_path / n / "checkpoint-8" / "__0_0.distcp").stat().st_size for n in ("a", "adamw")]
    assert sizes[0] < 0.6 * sizes[1]
    whole = run(tmp_path / "b")
    assert whole[-1] < whole[0]
    assert run(tmp_path / "a") == pytest.approx(whole, abs=1e-6)


def test_an_optimizer_that_is_not_installed_is_an_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("composer.extras.find_spec", lambda name: None)
    model = pico.pico_model()
    schedule = replace(SCHEDULE, optimizer="adamw_8bit")
    with pytest.raises(MissingExtraError, match=r"pip install 'nexusmix\[8bit\]'"):
        fit(model, rows(), model.parameters(), schedule, tmp_path, stage="t")


def some_trained(folder, parts, progress=lambda *_: None):
    """Train the parameters whose name contains one of `parts`."""
    model = pico.pico_model()
    chosen = [p for name, p in model.named_parameters() if any(part in name for part in parts)]
    fit(model, rows(), chosen, SCHEDULE, folder, stage="t", progress=progress)


def test_a_resumed_run_with_frozen_parameters_prints_no_warning(tmp_path):
    with library_warnings() as messages:
        with pytest.raises(Interrupted):
            some_trained(tmp_path, ["mlp"], interrupt_at(10))
        some_trained(tmp_path, ["mlp"])
    assert not messages


def test_checkpoints_of_other_parameters_are_an_error_with_a_remedy(tmp_path):
    with pytest.raises(Interrupted):
        some_trained(tmp_path, ["mlp"], interrupt_at(10))
    with pytest.raises(StorageError, match="delete that folder"):
        some_trained(tmp_path, ["mlp", "self_attn"])


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    with pytest.raises(Interrupted):
        trained(tmp_path, interrupt_at(10))
    weights = tmp_path / "checkpoint-8" / "__0_0.distcp"
    data = bytearray(weights.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(data[: len(data) // 2])
    else:
        weights.unlink()
    assert newest_sound_checkpoint(tmp_path).name == "checkpoint-4"


def test_a_run_killed_at_once_resumes_in_a_new_process(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[3])]!r}\n"
        "from pathlib import Path\nimport test_training as t\n"
        "def show(stage, done, total): print(done, flush=True)\n"
        f"losses, _ = t.trained(Path({str(tmp_path / 'run')!r}), show)\nprint('last', losses[-1])\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == "9":
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    again = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True
    ).stdout.split()
    whole = trained(tmp_path / "whole")[0]
    assert int(again[0]) > 4, "it began from a checkpoint, not from nothing"
    assert float(again[-1]) == pytest.approx(whole[-1], abs=1e-6)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoints(tmp_path):
    model = pico.pico_model()

    def poison(stage, done, total):
        if done == 6:
            next(model.parameters()).data.fill_(float("nan"))

    with pytest.raises(TrainingDivergedError, match="step 7 of 16"):
        fit(model, rows(), model.parameters(), SCHEDULE, tmp_path, stage="t", progress=poison)
    assert newest_sound_checkpoint(tmp_path).name == "checkpoint-4"


@pytest.fixture
def seeded(registry, pico_seed):
    add_seed(registry, "pico", pico_seed, license="MIT")
    return registry


def branch(registry, tmp_path, **settings):
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    out = tmp_path / "expert"
    return train_expert(
        registry, "pico", [data], out, tokens=4096, sequence_length=64, batch_tokens=512, **settings
    ), data


def test_an_expert_trained_with_a_frozen_trunk_is_anchored(seeded, tmp_path):
    result, data = branch(seeded, tmp_path, freeze_trunk=True)
    assert result.last_loss < result.first_loss
    expert = contribute(seeded, "code", result.folder, seed="pico", license="MIT", data=[data])
    assert expert.anchored
    assert expert.ffn != queries.get_seed(seeded, "pico").ffn


def test_a_free_expert_trains_its_trunk_too(seeded, tmp_path):
    result, data = branch(seeded, tmp_path)
    assert not contribute(seeded, "code", result.folder, seed="pico", license="MIT", data=[data]).anchored


def test_an_expert_is_never_written_into_a_folder_that_exists(seeded, tmp_path):
    (tmp_path / "expert").mkdir()
    with pytest.raises(RecipeError, match="exists already"):
        branch(seeded, tmp_path)
    assert list((tmp_path / "expert").iterdir()) == []
