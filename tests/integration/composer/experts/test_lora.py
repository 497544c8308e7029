"""LoRA adapters as contributions: equal to PEFT's arithmetic; adapters that are not plain sums are refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from composer.composition import compose
from composer.experts import extend_seed as extending
from composer.experts.adapter import read_adapter
from composer.experts.adapter_config import check_base
from composer.experts.lora import contribute_adapter, is_adapter, place_adapter, put_difference
from composer.mix.dense import dense_blobs
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import open_expert, open_mix
from composer.mix.recipe import Recipe, Training
from registry.catalog import queries
from registry.errors import (
    IncompatibleError,
    InvalidInputError,
    LicenseError,
    RegistryError,
    UnsafeFileError,
)
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed

peft = pytest.importorskip("peft")

ATTENTION = ["q_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

# Settings of the seed, and settings of the adapter.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"target_modules": ATTENTION + MLP}),
    "rank-stabilised": ({}, {"target_modules": MLP, "use_rslora": True, "r": 5, "lora_alpha": 7}),
    "patterns": (
        {},
        {
            "target_modules": ATTENTION + MLP,
            "rank_pattern": {
                "down_proj": 2,
                "^model.layers.1.self_attn.q_proj": 3,
                "layers.0.mlp.up_proj": 6,
            },
            "alpha_pattern": {"mlp.down_proj": 32, "^model.layers.0.self_attn.q_proj": 1, "^up_proj": 99},
        },
    ),
    "one-layer": ({}, {"target_modules": MLP, "layers_to_transform": [1]}),
    "excluded": ({}, {"target_modules": MLP, "exclude_modules": ["model.layers.0.mlp.up_proj"]}),
    "regular-expression": ({}, {"target_modules": r".*\.mlp\.(up|down)_proj"}),
    "all-linear": ({"attention_bias": True, "mlp_bias": True}, {"target_modules": "all-linear"}),
    "head": ({}, {"target_modules": ["lm_head"]}),
    "transposed-is-for-conv1d": ({}, {"target_modules": MLP, "fan_in_fan_out": True}),
    "bf16-seed": ({"dtype": "bfloat16"}, {"target_modules": ATTENTION + MLP}),
    "fp16-seed": ({"dtype": "float16"}, {"target_modules": MLP}),
    "phi3": ({"model_type": "phi3"}, {"target_modules": ["gate_up_proj", "qkv_proj"]}),
    "gpt_neox": ({"model_type": "gpt_neox"}, {"target_modules": ["query_key_value", "dense_h_to_4h"]}),
    "gemma2": ({"model_type": "gemma2"}, {"target_modules": ATTENTION + MLP}),
}


def write_adapter(
    seed: Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.float32,
    save_embedding_layers: bool = False,
    **settings: Any,
) -> Path:
    """A PEFT adapter of the seed with random A and B, saved by PEFT."""
    base = AutoModelForCausalLM.from_pretrained(seed, dtype="auto")
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = peft.get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = (torch.randn(parameter.shape) * 0.2).to(dtype)
    model.save_pretrained(out, save_embedding_layers=save_embedding_layers)
    return out


def merged_by_peft(seed: Path, adapter: Path) -> dict[str, torch.Tensor]:
    base = AutoModelForCausalLM.from_pretrained(seed, dtype="auto")
    return peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()


def edit_adapter(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.fixture
def seeded(registry: Registry, pico_seed: Path) -> Registry:
    """A registry with the pico Llama as the seed `base`."""
    add_seed(registry, "base", pico_seed, license="MIT")
    return registry


@pytest.fixture
def adapter(pico_seed: Path, tmp_path: Path) -> Path:
    """An adapter of attention and MLP projections."""
    return write_adapter(pico_seed, tmp_path / "adapter", target_modules=ATTENTION + MLP)


@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_merging_gives_the_same_result_as_peft(
    registry: Registry, tmp_path: Path, case: str, adapter_dtype: torch.dtype
) -> None:
    seed_settings, adapter_settings = CASES[case]
    seed = pico.write_pico(tmp_path / "seed", **seed_settings)
    add_seed(registry, "base", seed, license="MIT")
    folder = write_adapter(seed, tmp_path / "adapter", dtype=adapter_dtype, **adapter_settings)
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = contribute_adapter(
        registry, "code", folder, seed="base", license="MIT", data=[data], allow_unrelated=True
    )
    base = lock_seed(queries.get_seed(registry, "base"))
    before = load_file(seed / "model.safetensors")
    (stored,) = {tensor.dtype for tensor in before.values()}
    got = dict(open_expert(registry, base, lock_expert(expert), dtype=stored).named_parameters())
    if "gpt_neox" in case:
        before["lm_head.weight"] = before.pop("embed_out.weight")
    expected = merged_by_peft(seed, folder)
    assert got.keys() == before.keys()
    changed = {name for name, tensor in got.items() if not torch.equal(tensor, before[name])}
    assert len(changed) == len(load_file(folder / WEIGHTS)) / 2
    for name, tensor in got.items():
        assert tensor.dtype == before[name].dtype
        torch.testing.assert_close(tensor.detach(), expected[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("piece", [70, 2**17])
def test_the_blobs_of_a_whole_expert_are_those_of_its_dense_model_in_pieces_of_any_size(
    seeded: Registry, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    from composer.tensors import rows

    monkeypatch.setattr(rows, "PIECE", piece)
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    record = contribute_adapter(seeded, "code", adapter, seed="base", license="MIT", data=[data])
    expert = lock_expert(record)
    found = {}
    for digest in dense_blobs(seeded.blobs, expert):
        found |= load_file(seeded.blobs.path(digest))
    opened = open_expert(seeded, lock_seed(queries.get_seed(seeded, "base")), expert)
    expected = dict(opened.named_parameters())
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name].detach(), atol=1e-6, rtol=0)


def test_an_adapter_of_mlp_projections_alone_gives_an_anchored_expert(
    seeded: Registry, pico_seed: Path, tmp_path: Path
) -> None:
    folder = write_adapter(pico_seed, tmp_path / "adapter", target_modules=MLP)
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = contribute_adapter(seeded, "code", folder, seed="base", license="MIT", data=[data])
    assert expert.anchored
    seed = queries.get_seed(seeded, "base")
    assert (expert.ffn, expert.trunk) == (seed.ffn, seed.trunk)
    changes = expert.provenance["difference_from_seed"]
    assert 0.1 < changes["ffn"]["cosine"] < 1 and changes["ffn"]["changed"] == 1.0
    assert changes["trunk"] == {"cosine": pytest.approx(1.0), "changed": 0.0}


def test_a_contributed_adapter_says_where_it_came_from_and_composes(
    seeded: Registry, adapter: Path, tmp_path: Path
) -> None:
    import hashlib

    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = contribute_adapter(seeded, "code", adapter, seed="base", license="MIT", data=[data])
    assert not expert.anchored
    origin = queries.get_expert(seeded, "code").provenance["adapter"]
    assert (origin["r"], origin["lora_alpha"], origin["peft_type"]) == (4, 8, "LORA")
    assert origin["sha256"] == hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
    untrained = Training(warm_start=False, tokens=0)
    manifest = compose(seeded, Recipe(name="m", seed="base", experts=["code"], training=untrained)).manifest
    with torch.inference_mode():
        assert torch.isfinite(open_mix(seeded, manifest).model(torch.tensor([[5, 6, 7]])).logits).all()


def test_the_command_contributes_an_adapter_as_it_does_a_model(
    tmp_path: Path, pico_seed: Path, adapter: Path
) -> None:
    from ui.cli import main

    home = open_registry(tmp_path / "cli", embedder="hashing:16")
    add_seed(home, "base", pico_seed, license="MIT")
    (tmp_path / "cli" / "config.toml").write_text('embedder = "hashing:16"\n')
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    command = ["--home", str(tmp_path / "cli"), "contribute", "code", str(adapter), "--seed", "base"]
    try:
        main([*command, "--license", "MIT", "--data", str(data), "--json"])
    except SystemExit as left:
        assert not left.code
    assert queries.get_expert(home, "code").provenance["adapter"]["peft_type"] == "LORA"
    home.engine.dispose()


def test_the_command_accepts_an_adapter_of_another_base_with_the_option(
    named: Registry, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ui.cli import main

    edit_adapter(adapter, base_model_name_or_path="other/Pico-2B")
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    command = ["--home", str(named.home), "contribute", "code", str(adapter), "--seed", "base"]
    command += ["--license", "MIT", "--data", str(data)]
    (named.home / "config.toml").write_text('embedder = "hashing:16"\n')
    assert main(command) != 0
    assert "--allow-other-base" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--allow-other-base"]) == 0
    provenance = queries.get_expert(named, "code").provenance["adapter"]
    assert provenance["base_model_name_or_path"] == "other/Pico-2B"


def test_a_run_contributes_an_adapter_and_reports_its_expert(
    seeded: Registry, adapter: Path, tmp_path: Path
) -> None:
    from ui.queue.jobs import execute, submit

    data = [str(pico.write_documents(tmp_path / "code.jsonl", "code"))]
    request = {"name": "code", "source": str(adapter), "seed": "base", "license": "MIT", "data": data}
    result = execute(seeded, submit(seeded, "contribute", request), lambda *_: None)
    expert = queries.get_expert(seeded, result["expert"])
    assert expert.ref == "code@1"
    assert expert.provenance["adapter"]["peft_type"] == "LORA"
    assert expert.difference is not None


def test_a_folder_is_an_adapter_when_it_has_an_adapters_configuration_and_no_model(
    adapter: Path, pico_seed: Path, tmp_path: Path
) -> None:
    assert is_adapter(adapter)
    assert not is_adapter(pico_seed)
    assert not is_adapter(tmp_path / "nothing")


MODEL_FILES = ["model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_folder_with_a_model_and_an_adapter_is_refused_and_either_alone_is_taken(
    seeded: Registry, adapter: Path, pico_seed: Path, tmp_path: Path, name: str
) -> None:
    (adapter / name).write_bytes((pico_seed / "model.safetensors").read_bytes())
    for use in (is_adapter, read_adapter):
        with pytest.raises(IncompatibleError) as caught:
            use(adapter)
        assert name in str(caught.value) and CONFIG in str(caught.value)
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (CONFIG, WEIGHTS):
        (adapter / file).rename(alone / file)
    assert is_adapter(alone) and not is_adapter(adapter)
    put_difference(seeded.blobs, place_adapter(seeded, "base", alone))


def test_a_run_does_not_publish_the_model_that_is_next_to_an_adapter(
    seeded: Registry, pico_seed: Path, adapter: Path, tmp_path: Path
) -> None:
    from ui.queue.jobs import execute, submit

    for file in pico_seed.iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    data = [str(pico.write_documents(tmp_path / "code.jsonl", "code"))]
    request = {"name": "code", "source": str(adapter), "seed": "base", "license": "MIT", "data": data}
    with pytest.raises(IncompatibleError, match="both a model"):
        execute(seeded, submit(seeded, "contribute", request), lambda *_: None)
    assert not queries.list_experts(seeded)


# --- refusals --------------------------------------------------------------------------------------------


def refused(registry: Registry, folder: Path, error: type[RegistryError], told: str) -> None:
    """Assert that placing raises `error` with the text `told`, and stores nothing."""
    before = set(registry.blobs.iter_digests())
    with pytest.raises(error) as caught:
        place_adapter(registry, "base", folder)
    assert told in str(caught.value)
    assert set(registry.blobs.iter_digests()) == before


WHOLE: dict[str, dict[str, Any]] = {
    "dora": {"target_modules": ATTENTION + MLP, "use_dora": True},
    "dora-rank-stabilised": {"target_modules": MLP, "use_dora": True, "use_rslora": True},
    "saved-head": {"target_modules": MLP, "modules_to_save": ["lm_head"]},
    "saved-embedding-and-norm": {"target_modules": MLP, "modules_to_save": ["embed_tokens", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "up_proj"]},
    "tokens": {"target_modules": MLP, "trainable_token_indices": [3, 17, 200]},
}


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_beyond_sums_is_merged_as_by_peft(
    registry: Registry, tmp_path: Path, case: str, dtype: str
) -> None:
    seed = pico.write_pico(tmp_path / "seed", dtype=dtype)
    add_seed(registry, "base", seed, license="MIT")
    folder = write_adapter(seed, tmp_path / "adapter", **WHOLE[case])

    def changed(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "lora_A" not in name and "lora_B" not in name:
                tensor += (torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)) * 0.05).to(
                    tensor
                )

    edit_tensors(folder, changed)
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = contribute_adapter(
        registry, "code", folder, seed="base", license="MIT", data=[data], allow_unrelated=True
    )
    expected = merged_by_peft(seed, folder)
    ours = {
        name: tensor
        for blob in (expert.ffn, expert.trunk)
        for name, tensor in load_file(registry.blobs.path(blob)).items()
    }
    assert expert.difference is None and ours.keys() == expected.keys()
    tolerance = 1e-6 if dtype == "float32" else 2e-3  # PEFT rounds each step to bfloat16
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], atol=tolerance, rtol=4 * tolerance)


def test_a_saved_copy_of_the_seeds_own_head_changes_nothing_and_the_rest_stays_a_sum(
    seeded: Registry, pico_seed: Path, tmp_path: Path
) -> None:
    folder = write_adapter(
        pico_seed, tmp_path / "adapter", target_modules=["lm_head"], save_embedding_layers=True
    )
    assert place_adapter(seeded, "base", folder).is_sum


def test_the_remedy_for_the_head_of_a_tied_seed_works(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extending, "check_runs", lambda folder: None)  # tested in test_dry_run.py
    seed = pico.write_pico(tmp_path / "seed", tie_word_embeddings=True)
    add_seed(registry, "base", seed, license="MIT")
    folder = write_adapter(seed, tmp_path / "adapter", target_modules=MLP, modules_to_save=["embed_tokens"])
    edit_tensors(folder, lambda tensors: [t.add_(0.01) for n, t in tensors.items() if "embed" in n] and None)
    refused(registry, folder, IncompatibleError, "nexusmix seed extend NEW --seed base --untie")
    extending.extend_seed(registry, "untied", "base", untie=True)
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = contribute_adapter(registry, "code", folder, seed="untied", license="MIT", data=[data])
    trunk = load_file(registry.blobs.path(expert.trunk))
    old = load_file(seed / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(trunk["lm_head.weight"], old)
    torch.testing.assert_close(trunk["model.embed_tokens.weight"], old + 0.01)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"target_modules": MLP, "bias": "all"}, "bias is 'all', expected none"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_with_the_reason(
    seeded: Registry, pico_seed: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    refused(seeded, write_adapter(pico_seed, tmp_path / "adapter", **settings), IncompatibleError, told)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"peft_type": "VERA"}, IncompatibleError, "peft_type is 'VERA', expected LORA"),
        ({"init_lora_weights": "pissa"}, IncompatibleError, "this initialisation changes the seed's weights"),
        (
            {"use_sorcery": True},
            IncompatibleError,
            "'use_sorcery' is True: this version of nexusmix does not know",
        ),
        ({"r": 8}, IncompatibleError, "the rank is 8, but lora_A has 4 rows and lora_B has 4 columns"),
        ({"r": "4"}, IncompatibleError, "the rank is '4'"),
        ({"lora_alpha": None}, IncompatibleError, "lora_alpha is None, expected a number"),
        ({"r": 0}, IncompatibleError, "the rank is 0, expected an integer ≥ 1"),
        ({"r": -4}, IncompatibleError, "the rank is -4"),
        ({"r": True}, IncompatibleError, "the rank is True"),
        ({"r": 4.0}, IncompatibleError, "the rank is 4.0"),
        ({"rank_pattern": {"up_proj": 0}}, IncompatibleError, "the rank is 0"),
        ({"rank_pattern": [4]}, IncompatibleError, "rank_pattern is [4], expected an object"),
        ({"lora_alpha": "8"}, IncompatibleError, "lora_alpha is '8', expected a number"),
        ({"lora_alpha": True}, IncompatibleError, "lora_alpha is True"),
        ({"lora_alpha": 10**100}, IncompatibleError, "lora_alpha is 1000"),
        ({"lora_alpha": 10**400}, UnsafeFileError, "is too large a number"),
        ({"lora_alpha": float("nan")}, UnsafeFileError, "NaN is not JSON"),
        ({"lora_alpha": float("inf")}, UnsafeFileError, "Infinity is not JSON"),
        ({"alpha_pattern": {"up_proj": None}}, IncompatibleError, "lora_alpha is None"),
        ({"use_rslora": "false"}, IncompatibleError, "use_rslora is 'false', expected true or false"),
        ({"target_modules": {"up_proj": 1}}, IncompatibleError, "expected module names"),
        ({"target_modules": ["up_proj", 3]}, IncompatibleError, "expected module names"),
        ({"rank_pattern": {"(a+)+$": 4}}, IncompatibleError, "only plain module names are supported"),
        ({"target_modules": [*MLP, "c_fc"]}, IncompatibleError, "target_modules names 'c_fc'"),
        ({"target_modules": [*ATTENTION, *MLP, "k_proj"]}, IncompatibleError, "names 'k_proj'"),
    ],
)
def test_a_configuration_that_the_tensors_or_the_arithmetic_do_not_fit_is_refused(
    seeded: Registry, adapter: Path, changes: dict[str, Any], error: type[RegistryError], told: str
) -> None:
    edit_adapter(adapter, **changes)
    refused(seeded, adapter, error, told)


def test_an_adapter_without_a_rank_is_refused(seeded: Registry, adapter: Path) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    del config["r"]
    (adapter / CONFIG).write_text(json.dumps(config))
    refused(seeded, adapter, IncompatibleError, "the rank is None")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", ["A", "B"])
def test_an_adapter_that_changes_nothing_is_refused(
    seeded: Registry, adapter: Path, side: str, dtype: torch.dtype
) -> None:
    def zero(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = (tensor * -0.0 if f"lora_{side}" in name else tensor).to(dtype)

    edit_tensors(adapter, zero)
    refused(seeded, adapter, IncompatibleError, "it changes nothing: in every pair, lora_A, lora_B")


def test_an_adapter_of_scale_zero_is_refused(seeded: Registry, adapter: Path) -> None:
    edit_adapter(adapter, lora_alpha=0)
    refused(seeded, adapter, IncompatibleError, "it changes nothing")


def test_an_adapter_with_one_module_that_learned_something_is_taken(
    seeded: Registry, adapter: Path, tmp_path: Path
) -> None:
    def zero(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "lora_B" in name and name != f"{PREFIX}B.weight":
                tensor.zero_()

    edit_tensors(adapter, zero)
    put_difference(seeded.blobs, place_adapter(seeded, "base", adapter))


@pytest.fixture
def named(registry: Registry, pico_seed: Path, tmp_path: Path) -> Registry:
    """A registry with a seed that names its model on the hub."""
    folder = shutil.copytree(pico_seed, tmp_path / "named")
    config = json.loads((folder / "config.json").read_text())
    config["_name_or_path"] = "acme/Pico-1B"
    (folder / "config.json").write_text(json.dumps(config))
    add_seed(registry, "base", folder, license="MIT")
    return registry


@pytest.mark.parametrize("base", ["other/pico-2B", "acme/Pico-1B-Instruct"])
def test_an_adapter_of_another_base_is_refused_unless_it_is_allowed(
    named: Registry, adapter: Path, tmp_path: Path, base: str
) -> None:
    edit_adapter(adapter, base_model_name_or_path=base)
    refused(named, adapter, IncompatibleError, f"it was trained on '{base}', but seed base is 'acme/Pico-1B'")
    refused(named, adapter, IncompatibleError, "--allow-other-base")
    put_difference(named.blobs, place_adapter(named, "base", adapter, allow_other_base=True))


@pytest.mark.parametrize(
    "base",
    [
        "acme/Pico-1B",
        "unsloth/pico-1b-unsloth-bnb-4bit",
        "x/Pico-1B-GPTQ-Int4",
        "x/base",
        "/data/a",
        "./a/b",
        "a",
        "",
        3,
        None,
    ],
)
def test_a_copy_of_the_base_or_a_local_path_is_no_other_base(
    named: Registry, adapter: Path, tmp_path: Path, base: object
) -> None:
    edit_adapter(adapter, base_model_name_or_path=base)
    put_difference(named.blobs, place_adapter(named, "base", adapter))


def test_an_adapter_of_another_revision_of_the_seed_is_refused(
    named: Registry, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = queries.get_seed(named, "base")
    known = {**seed.config, "_name_or_path": "acme/Pico-1B", "_commit_hash": "a" * 40}
    config = json.loads((adapter / CONFIG).read_text()) | {"base_model_name_or_path": "acme/Pico-1B"}
    published = dataclasses.replace(seed, config=known)
    for revision, refusal in (("a" * 40, False), ("main", False), (None, False), ("b" * 40, True)):
        with (
            pytest.raises(IncompatibleError, match="on revision bbbb")
            if refusal
            else contextlib.nullcontext()
        ):
            check_base({**config, "revision": revision}, adapter, published)


PREFIX = "base_model.model.model.layers.0.mlp.up_proj.lora_"


def test_an_adapter_with_half_a_pair_is_refused(seeded: Registry, adapter: Path) -> None:
    edit_tensors(adapter, lambda tensors: tensors.pop(f"{PREFIX}B.weight"))
    refused(seeded, adapter, IncompatibleError, "layers.0.mlp.up_proj': lora_B is missing")


def test_an_adapter_that_lost_a_module_which_its_configuration_adapts_is_refused(
    seeded: Registry, adapter: Path
) -> None:
    edit_tensors(adapter, lambda tensors: [tensors.pop(f"{PREFIX}{side}.weight") for side in "AB"])
    refused(
        seeded, adapter, IncompatibleError, "up_proj.weight', but adapter_model.safetensors has no tensors"
    )


def test_an_adapter_of_another_model_is_refused_with_every_shape(registry: Registry, tmp_path: Path) -> None:
    add_seed(registry, "base", pico.write_pico(tmp_path / "small"), license="MIT")
    large = pico.write_pico(tmp_path / "large", intermediate_size=64, num_hidden_layers=3)
    folder = write_adapter(large, tmp_path / "adapter", target_modules=["up_proj"])
    refused(registry, folder, IncompatibleError, "the seed's shape is [48, 32], the adapter's [64, 32]")
    refused(
        registry, folder, IncompatibleError, "seed base has no tensor 'model.layers.2.mlp.up_proj.weight'"
    )


def test_an_adapter_of_a_tied_head_is_refused(registry: Registry, tmp_path: Path) -> None:
    seed = pico.write_pico(tmp_path / "seed", tie_word_embeddings=True)
    add_seed(registry, "base", seed, license="MIT")
    untied = pico.write_pico(tmp_path / "untied")
    folder = write_adapter(untied, tmp_path / "adapter", target_modules=["lm_head"])
    refused(registry, folder, IncompatibleError, "nexusmix seed extend NEW --seed base --untie")


def test_an_adapter_trained_with_another_tokenizer_is_refused(seeded: Registry, adapter: Path) -> None:
    pico.pico_tokenizer([("a", "b")]).save_pretrained(adapter)
    refused(seeded, adapter, IncompatibleError, "tokenizer vocabulary")


def test_an_adapter_with_the_seeds_own_tokenizer_is_taken_with_its_chat_template(
    seeded: Registry, adapter: Path, tmp_path: Path
) -> None:
    tokenizer = pico.pico_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(adapter)
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = contribute_adapter(seeded, "code", adapter, seed="base", license="MIT", data=[data])
    assert seeded.blobs.read_bytes(expert.chat_template) == b"{{ messages }}"


def test_an_adapter_in_a_pickle_is_never_opened(seeded: Registry, adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    refused(seeded, adapter, InvalidInputError, "safe_serialization=True")


def test_a_pickle_under_the_name_of_safetensors_is_refused(seeded: Registry, adapter: Path) -> None:
    torch.save({"weight": torch.ones(3)}, adapter / WEIGHTS)
    refused(seeded, adapter, UnsafeFileError, "as torch.save writes (pickle)")


def test_a_link_in_an_adapters_folder_is_refused(seeded: Registry, adapter: Path, tmp_path: Path) -> None:
    (adapter / WEIGHTS).rename(tmp_path / "elsewhere")
    (adapter / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    refused(seeded, adapter, UnsafeFileError, "symlink")


def test_an_adapter_with_nan_is_not_published(seeded: Registry, adapter: Path, tmp_path: Path) -> None:
    edit_tensors(adapter, lambda tensors: tensors[f"{PREFIX}A.weight"].fill_(float("nan")))
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    with pytest.raises(UnsafeFileError, match=r"layers\.0\.mlp\.up_proj\.lora_A\.weight' contains NaN"):
        contribute_adapter(seeded, "code", adapter, seed="base", license="MIT", data=[data])
    assert not queries.list_experts(seeded)


def test_a_wrong_licence_is_reported_before_anything_is_merged(seeded: Registry, adapter: Path) -> None:
    with pytest.raises(LicenseError):
        contribute_adapter(seeded, "code", adapter, seed="base", license="no such licence")


@pytest.fixture(autouse=True)
def _quiet_peft() -> Iterator[None]:
    """Ignore PEFT's warnings about settings that the tests choose on purpose."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
