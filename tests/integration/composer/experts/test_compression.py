"""Full fine-tunes as LoRA adapters: best low-rank differences, in PEFT's format."""

from __future__ import annotations

import json
from pathlib import Path

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from composer.errors import RecipeError
from composer.experts.compression import compress, low_rank
from composer.experts.contribution import contribute
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import open_expert
from registry.catalog import queries
from registry.errors import ConflictError, IncompatibleError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "home", embedder="hashing:16")


def is_projection(name: str, tensor: torch.Tensor) -> bool:
    return tensor.ndim == 2 and "embed" not in name


def branched(seed: Path, out: Path, rank: int) -> Path:
    """An expert whose projections differ from the seed's by matrices of this rank, and nothing else."""
    pico.branch_pico(seed, out, seed=1, scale=0.0)
    tensors = load_file(out / "model.safetensors")
    random = torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if is_projection(name, tensor):
            b, a = (torch.randn(size, rank, generator=random) for size in tensor.shape)
            tensors[name] = tensor + 0.02 * b @ a.T
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt_neox", "gemma3_text"])
def test_a_change_of_low_rank_is_kept_whole_by_peft_and_by_the_registry(
    registry: Registry, tmp_path: Path, model_type: str
) -> None:
    peft = pytest.importorskip("peft")
    seed = pico.write_pico(tmp_path / "seed", model_type=model_type)
    add_seed(registry, "pico", seed, license="MIT")
    expert = branched(seed, tmp_path / "expert", 3)
    found = compress(registry, "pico", expert, tmp_path / "adapter", rank=4)
    assert found.kept == pytest.approx(1, abs=1e-4) and found.rank == 4
    assert found.bytes == (tmp_path / "adapter" / WEIGHTS).stat().st_size

    whole = logits(AutoModelForCausalLM.from_pretrained(expert))
    base = AutoModelForCausalLM.from_pretrained(seed)
    torch.testing.assert_close(
        logits(peft.PeftModel.from_pretrained(base, tmp_path / "adapter")), whole, atol=1e-4, rtol=1e-4
    )
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    record = contribute(
        registry, "small", tmp_path / "adapter", seed="pico", license="MIT", data=data, allow_unrelated=True
    )
    locked = lock_seed(queries.get_seed(registry, "pico"))
    torch.testing.assert_close(
        logits(open_expert(registry, locked, lock_expert(record))), whole, atol=1e-4, rtol=1e-4
    )


def test_a_truncated_difference_is_the_best_of_its_rank() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.svdvals(matrix)
    for rank in (1, 5, 24, 100):
        a, b, kept = low_rank(matrix, rank)
        assert a.shape == (min(rank, 24), 40) and b.shape == (24, min(rank, 24))
        assert kept == pytest.approx(float(exact[:rank].square().sum()), rel=1e-3)
        left = float((matrix - b @ a).square().sum())
        assert left == pytest.approx(float(exact[rank:].square().sum()), rel=1e-2, abs=1e-3)


def test_changes_outside_the_projections_are_left_out_and_counted(registry: Registry, tmp_path: Path) -> None:
    seed = pico.write_pico(tmp_path / "seed")
    add_seed(registry, "pico", seed, license="MIT")
    expert = branched(seed, tmp_path / "expert", 2)
    tensors = load_file(expert / "model.safetensors")
    before = load_file(seed / "model.safetensors")
    tensors["model.embed_tokens.weight"] += 0.1
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    squares = {name: float((tensors[name] - before[name]).square().sum()) for name in tensors}
    inside = sum(square for name, square in squares.items() if is_projection(name, tensors[name]))
    found = compress(registry, "pico", expert, tmp_path / "adapter", rank=2)
    assert found.kept_of_projections == pytest.approx(1, abs=1e-4)
    assert found.kept == pytest.approx(inside / sum(squares.values()), rel=1e-3)
    assert not any("embed" in name for name in load_file(tmp_path / "adapter" / WEIGHTS))


def test_equal_inputs_give_equal_adapters_and_small_matrices_a_smaller_rank(
    registry: Registry, tmp_path: Path
) -> None:
    seed = pico.write_pico(tmp_path / "seed")
    add_seed(registry, "pico", seed, license="MIT")
    expert = pico.branch_pico(seed, tmp_path / "expert", seed=1)
    for name in ("one", "two"):
        compress(registry, "pico", expert, tmp_path / name, rank=1000)
        torch.rand(3)  # the caller's random numbers have no influence
    one, two = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("one", "two"))
    assert one == two
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    widths = {
        len(tensor) for name, tensor in load_file(tmp_path / "one" / WEIGHTS).items() if "lora_A" in name
    }
    assert config["r"] == max(widths) and set(config["rank_pattern"].values()) == widths - {config["r"]}


def test_experts_that_no_adapter_can_replace_are_refused(registry: Registry, tmp_path: Path) -> None:
    seed = pico.write_pico(tmp_path / "seed")
    add_seed(registry, "pico", seed, license="MIT")
    with pytest.raises(IncompatibleError, match="no projection differs"):
        compress(registry, "pico", seed, tmp_path / "out")
    expert = branched(seed, tmp_path / "expert", 2)
    compress(registry, "pico", expert, tmp_path / "adapter", rank=2)
    with pytest.raises(ConflictError, match="exists already"):
        compress(registry, "pico", expert, tmp_path / "adapter")
    with pytest.raises(RecipeError, match="an adapter already"):
        compress(registry, "pico", tmp_path / "adapter", tmp_path / "out")
    with pytest.raises(RecipeError, match="rank is 0"):
        compress(registry, "pico", expert, tmp_path / "out", rank=0)
    wide = pico.write_pico(tmp_path / "wide", intermediate_size=96)
    with pytest.raises(IncompatibleError, match="contribute the checkpoint as it is"):
        compress(registry, "pico", wide, tmp_path / "out")
    assert not (tmp_path / "out").exists()
