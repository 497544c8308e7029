"""Every family: each tensor of a real model has its role and shape, and all other tensors are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pico
import pytest

from registry.checkpoints.families import (
    FAMILIES,
    Roles,
    assign_roles,
    expected_tensors,
    family_of,
    layer_count,
)
from registry.checkpoints.tensors import TensorInfo, read_checkpoint
from registry.errors import IncompatibleError, UnmappedTensorError, UnsupportedFamilyError

ALL = sorted(FAMILIES)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((model_type, {}) for model_type in ALL),
    *((model_type, {"tie_word_embeddings": tied}) for model_type in ALL for tied in (True, False)),
    *((model_type, {"num_hidden_layers": 1}) for model_type in ALL),
    *(
        (model_type, {"head_dim": 12})
        for model_type in ("llama", "mistral", "qwen3", "gemma2", "gemma3_text")
    ),
    *(
        (model_type, {"attention_bias": True})
        for model_type in ("llama", "qwen3", "olmo2", "gemma2", "gemma3_text", "cohere", "cohere2")
    ),
    ("llama", {"mlp_bias": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 6, "num_key_value_heads": 1}),
    ("qwen2", {"num_key_value_heads": 4}),
    ("phi3", {"num_key_value_heads": 4}),
    ("gpt_neox", {"attention_bias": False}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("cohere", {"use_qk_norm": True}),
    ("smollm3", {"attention_bias": True, "mlp_bias": True}),
    ("granite", {"attention_bias": True, "mlp_bias": True}),
    ("arcee", {"attention_bias": True, "mlp_bias": True}),
    ("ernie4_5", {"use_bias": True}),
    ("glm4", {"attention_bias": False}),
    ("seed_oss", {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    ("hunyuan_v1_dense", {"attention_bias": True}),
]


def load_roles(folder: Path, **changes: Any) -> Roles:
    config = json.loads((folder / "config.json").read_text()) | changes
    return assign_roles(family_of(config), config, read_checkpoint(folder))


@pytest.mark.parametrize(("model_type", "overrides"), VARIANTS)
def test_every_tensor_of_a_model_has_a_role_and_the_shape_that_its_configuration_says(
    tmp_path: Path, model_type: str, overrides: dict[str, Any]
) -> None:
    model = pico.pico_model(model_type, **overrides)
    model.save_pretrained(tmp_path)
    roles = load_roles(tmp_path)
    # `named_parameters` lists a tied head once, as the roles do.
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert {name: info.shape for name, info in (roles.ffn | roles.trunk).items()} == expected
    assert all(".mlp." in name for name in roles.ffn) and not any(".mlp." in name for name in roles.trunk)
    assert roles.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert roles.ffn_width == model.config.intermediate_size == 48


@pytest.mark.parametrize("model_type", ALL)
def test_the_mlp_path_leads_to_the_module_that_contains_the_ffn(model_type: str) -> None:
    family = FAMILIES[model_type]
    model = pico.pico_model(model_type)
    config = model.config.to_dict()
    ffn, _ = expected_tensors(family, config, 48)
    found = {
        f"{family.mlp_path.format(i=i)}.{name}"
        for i in range(layer_count(config))
        for name, _ in model.get_submodule(family.mlp_path.format(i=i)).named_parameters()
    }
    assert found == ffn.keys()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_dtype_is_the_one_most_weights_have(tmp_path: Path, dtype: str) -> None:
    roles = load_roles(pico.write_pico(tmp_path / "model", dtype=dtype))
    assert roles.dtype == {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[dtype]


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt_neox"])
def test_the_ffn_width_is_read_from_the_tensors(tmp_path: Path, model_type: str) -> None:
    pico.pico_model(model_type, intermediate_size=80).save_pretrained(tmp_path)
    assert load_roles(tmp_path, intermediate_size=48).ffn_width == 80


def test_ffns_of_different_widths_within_one_model_are_refused(pico_seed: Path) -> None:
    config, infos = _read(pico_seed)
    name = "model.layers.1.mlp.up_proj.weight"
    infos[name] = dataclasses.replace(infos[name], shape=(24, 64))
    with pytest.raises(
        IncompatibleError, match=r"layers\.1\.mlp\.up_proj.*expected shape \[48, 32\], got \[24, 64\]"
    ):
        assign_roles(family_of(config), config, infos)


def test_all_unmapped_and_all_missing_tensors_are_listed(pico_seed: Path) -> None:
    config, infos = _read(pico_seed)
    extra = infos.pop("model.norm.weight")
    infos |= {"model.layers.0.adapter.weight": extra, "score.weight": extra}
    del infos["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UnmappedTensorError) as caught:
        assign_roles(family_of(config), config, infos)
    assert caught.value.mismatches == (
        "no role for 'model.layers.0.adapter.weight'",
        "no role for 'score.weight'",
        "missing 'model.layers.1.mlp.up_proj.weight'",
        "missing 'model.norm.weight'",
    )


@pytest.mark.parametrize(
    ("wrapped", "wrapper"),
    [
        (lambda name: f"_orig_mod.{name}", "_orig_mod."),
        (lambda name: f"module.{name}", "module."),
        (lambda name: name.replace("layers.0.", "layers.0._orig_mod."), "_orig_mod."),
        (lambda name: f"_fsdp_wrapped_module.{name}", "_fsdp_wrapped_module."),
        (
            lambda name: name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
            "_checkpoint_wrapped_module.",
        ),
    ],
)
def test_names_that_wrappers_of_pytorch_add_are_removed(
    pico_seed: Path, wrapped: Callable[[str], str], wrapper: str
) -> None:
    config, infos = _read(pico_seed)
    family = family_of(config)
    plain = assign_roles(family, config, infos)
    roles = assign_roles(family, config, {wrapped(name): info for name, info in infos.items()})
    assert (roles.ffn, roles.trunk) == (plain.ffn, plain.trunk)
    assert (plain.wrappers, roles.wrappers) == ((), (wrapper,))


def test_a_tensor_with_and_without_a_wrapper_is_refused(pico_seed: Path) -> None:
    config, infos = _read(pico_seed)
    infos["_orig_mod.model.norm.weight"] = infos["model.norm.weight"]
    with pytest.raises(UnmappedTensorError, match=r"another tensor.*inner module"):
        assign_roles(family_of(config), config, infos)


def test_all_shapes_that_do_not_fit_the_configuration_are_listed(pico_seed: Path) -> None:
    config, infos = _read(pico_seed)
    with pytest.raises(IncompatibleError) as caught:
        assign_roles(family_of(config), config | {"num_key_value_heads": 4}, infos)
    assert len(caught.value.mismatches) == 4
    assert "k_proj.weight': expected shape [32, 32], got [16, 32]" in caught.value.mismatches[0]


def test_integer_weights_are_refused(pico_seed: Path) -> None:
    config, infos = _read(pico_seed)
    infos["model.norm.weight"] = dataclasses.replace(infos["model.norm.weight"], dtype="I8")
    with pytest.raises(IncompatibleError, match="expected a dtype of F16, BF16, F32, F64, got I8"):
        assign_roles(family_of(config), config, infos)


def test_buffers_of_old_checkpoints_are_dropped(tmp_path: Path, pico_seed: Path) -> None:
    config, infos = _read(pico_seed)
    infos["model.layers.0.self_attn.rotary_emb.inv_freq"] = infos["model.norm.weight"]
    assert len(assign_roles(family_of(config), config, infos).trunk) == 15
    config, infos = _read(pico.write_pico(tmp_path / "neox", model_type="gpt_neox"))
    some = infos["gpt_neox.final_layer_norm.weight"]
    infos["gpt_neox.layers.0.attention.bias"] = some
    infos["gpt_neox.layers.0.attention.masked_bias"] = some
    assert "gpt_neox.layers.0.attention.bias" not in assign_roles(family_of(config), config, infos).trunk


def test_a_tied_head_that_is_stored_twice_is_dropped_and_reported(pico_seed: Path) -> None:
    config, infos = _read(pico_seed)
    roles = assign_roles(family_of(config), config | {"tie_word_embeddings": True}, infos)
    assert "lm_head.weight" not in roles.trunk
    assert [(head.name, kept.name) for head, kept in roles.tied] == [
        ("lm_head.weight", "model.embed_tokens.weight")
    ]


@pytest.mark.parametrize("model_type", ["mixtral", None, 7, "../llama", "t5"])
def test_a_model_type_outside_the_table_is_refused_with_the_supported_ones(model_type: Any) -> None:
    with pytest.raises(UnsupportedFamilyError, match=r"not supported; expected one of llama, mistral"):
        family_of({"model_type": model_type})


@pytest.mark.parametrize("layers", [0, -1, True, "2", 10**9, None])
def test_an_absurd_size_in_the_configuration_is_refused(pico_seed: Path, layers: Any) -> None:
    config, infos = _read(pico_seed)
    with pytest.raises(IncompatibleError, match="num_hidden_layers must be an integer from 1 to 4096"):
        assign_roles(family_of(config), config | {"num_hidden_layers": layers}, infos)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    return json.loads((folder / "config.json").read_text()), dict(read_checkpoint(folder))
