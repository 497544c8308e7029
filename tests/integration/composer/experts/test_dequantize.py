"""Quantized checkpoints: block-wise fp8 becomes bfloat16; the others are refused with the way out."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from composer.experts.contribution import contribute
from composer.experts.dequantize import float_folder
from registry.errors import IncompatibleError
from registry.home import Registry

BLOCK = 16


def write_fp8(source: Path, out: Path) -> Path:
    """The folder with its projections in blocks of float8, each with a scale, as DeepSeek and Qwen publish them."""
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    for name, weight in list(tensors.items()):
        if weight.ndim == 2 and ("mlp" in name or "self_attn" in name):
            rows, columns = (-(-size // BLOCK) for size in weight.shape)
            scale = torch.ones(rows, columns)
            for i in range(rows):
                for j in range(columns):
                    block = weight[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
                    scale[i, j] = block.abs().max() / 448
                    block /= scale[i, j]
            tensors[name] = weight.to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [BLOCK, BLOCK],
        "activation_scheme": "dynamic",
    }
    return pico.edit_config(out, quantization_config=settings)


def test_an_fp8_tune_is_contributed_as_bfloat16(
    registry: Registry, pico_seed: Path, pico_expert: Path, tmp_path: Path
) -> None:
    from registry.intake.intake import add_seed

    add_seed(registry, "base", pico_seed, license="MIT")
    folder = write_fp8(pico_expert, tmp_path / "fp8")
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = contribute(registry, "code", folder, seed="base", license="MIT", data=data)
    assert expert.dtype == "BF16" and expert.provenance["dequantized"] == "to bfloat16"
    ours = load_file(registry.blobs.path(expert.ffn))
    theirs = load_file(pico_expert / "model.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.float(), theirs[name], atol=1e-3, rtol=0.08)
    assert not list((registry.home / "work").glob("float-*"))


def test_a_float_folder_is_used_as_it_is_and_broken_fp8_is_refused_in_one_line(
    registry: Registry, pico_seed: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        assert float_folder(registry, pico_seed, stack) == pico_seed
        folder = write_fp8(pico_seed, tmp_path / "fp8")
        config = json.loads((folder / "config.json").read_text())
        pico.edit_config(
            folder, quantization_config={**config["quantization_config"], "weight_block_size": ["x"]}
        )
        with pytest.raises(IncompatibleError, match="contribute the float model") as caught:
            float_folder(registry, folder, stack)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "of-the-future"])
def test_other_quantized_weights_are_refused_with_the_way_out(
    registry: Registry, pico_seed: Path, tmp_path: Path, method: str
) -> None:
    from registry.checkpoints.preflight import check_seed

    folder = Path(shutil.copytree(pico_seed, tmp_path / "quantized"))
    pico.edit_config(folder, quantization_config={"quant_method": method})
    with pytest.raises(IncompatibleError, match=rf"quantized \('{method}'\).*float weights: contribute"):
        check_seed(folder)
