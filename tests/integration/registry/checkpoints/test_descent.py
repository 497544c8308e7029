"""Contributions must differ from their seed, descend from it, and consist of the files that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.checkpoints import descent
from registry.checkpoints.families import assign_roles, family_of
from registry.checkpoints.tensors import read_checkpoint, weight_files
from registry.errors import IncompatibleError
from registry.home import Registry
from registry.intake.intake import add_seed, contribute
from registry.records import ExpertRecord


@pytest.fixture
def text(registry: Registry, pico_seed: Path, tmp_path: Path) -> Path:
    """A domain's text, for contributions to the seed `base`."""
    add_seed(registry, "base", pico_seed, license="MIT")
    return pico.write_documents(tmp_path / "text.jsonl", "code")


def publish(registry: Registry, folder: Path, text: Path, **options: Any) -> ExpertRecord:
    return contribute(registry, "code", folder, seed="base", license="MIT", data=[text], **options)


def test_the_untouched_seed_is_refused_as_an_expert(registry: Registry, pico_seed: Path, text: Path) -> None:
    with pytest.raises(IncompatibleError, match=r"was not trained.*--allow-unchanged"):
        publish(registry, pico_seed, text)
    expert = publish(registry, pico_seed, text, allow_unchanged=True)
    assert expert.anchored and expert.provenance["difference_from_seed"]["ffn"]["changed"] == 0


def test_the_seed_in_another_dtype_has_learned_nothing_either(
    registry: Registry, tmp_path: Path, pico_seed: Path, text: Path
) -> None:
    folder = Path(shutil.copytree(pico_seed, tmp_path / "wide"))
    path = folder / "model.safetensors"
    save_file({name: tensor.double() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(IncompatibleError, match="was not trained"):
        publish(registry, folder, text)


def test_one_changed_weight_outside_the_sample_is_something_learned(
    registry: Registry, tmp_path: Path, pico_seed: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "RUN_ELEMENTS", 1)
    folder = Path(shutil.copytree(pico_seed, tmp_path / "one"))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if ".mlp." in name)
    tensors[name].view(-1)[1] += 1
    save_file(tensors, path)
    assert publish(registry, folder, text).provenance["difference_from_seed"]["ffn"]["changed"] == 0


@pytest.mark.parametrize("role", ["ffn", "trunk", "both"])
def test_weights_of_another_model_are_refused(
    registry: Registry, tmp_path: Path, pico_seed: Path, text: Path, role: str
) -> None:
    folder = Path(shutil.copytree(pico_seed, tmp_path / "other"))
    other = load_file(pico.write_pico(tmp_path / "stranger", seed=99) / "model.safetensors")
    path = folder / "model.safetensors"
    tensors = {
        name: other[name] if role == "both" or (role == "ffn") == (".mlp." in name) else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path)
    with pytest.raises(IncompatibleError, match=r"not trained from the seed.*--allow-unrelated"):
        publish(registry, folder, text)
    assert publish(registry, folder, text, allow_unrelated=True).ref == "code@1"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_cosine_is_the_same_in_every_dtype(tmp_path: Path, pico_seed: Path, dtype: torch.dtype) -> None:
    expert = pico.branch_pico(pico_seed, tmp_path / "expert", seed=1)
    config = json.loads((pico_seed / "config.json").read_text())
    family = family_of(config)

    def cosine() -> float:
        ours = assign_roles(family, config, read_checkpoint(pico_seed))
        theirs = assign_roles(family, config, read_checkpoint(expert))
        found = descent.difference(ours.ffn, theirs.ffn).cosine
        assert found is not None
        return found

    seed, path = load_file(pico_seed / "model.safetensors"), expert / "model.safetensors"
    tensors = load_file(path)
    names = [name for name in tensors if ".mlp." in name]
    ours, theirs = (torch.cat([side[name].flatten() for name in names]).double() for side in (seed, tensors))
    expected = torch.nn.functional.cosine_similarity(ours, theirs, dim=0).item()
    assert cosine() == pytest.approx(expected, abs=1e-9)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
    assert cosine() == pytest.approx(expected, abs=1e-3)


def test_a_newer_file_comes_before_stale_shards_as_in_transformers(tmp_path: Path, pico_seed: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = pico.write_pico(tmp_path / "folder", seed=7, shards=2)
    shutil.copy(pico_seed / "model.safetensors", folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    read = read_checkpoint(folder)
    assert {info.path.name for info in read.values()} == {"model.safetensors"}
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors", "model.safetensors.index.json", "model-00001-of-00001.safetensors"],
            ["model.safetensors"],
        ),
        (
            ["model.safetensors.index.json", "model-00001-of-00001.safetensors", "consolidated.safetensors"],
            ["model.safetensors.index.json", "model-00001-of-00001.safetensors"],
        ),
        (
            ["model.safetensors.index.json", "part-1.safetensors"],
            ["model.safetensors.index.json", "part-1.safetensors"],
        ),
        (["pytorch_model.bin"], []),
    ],
)
def test_the_hub_and_a_folder_choose_the_same_files(names: list[str], chosen: list[str]) -> None:
    assert weight_files(names) == chosen
