"""Experts that differ from their seed: another dtype, or FFNs of another width."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.extension import extend, remove
from composer.generation import generate
from composer.mix.lock import Lock
from composer.mix.opening import open_dense, open_mix
from composer.mix.recipe import Recipe, Training
from composer.model.modeling import forced
from composer.tensors.torch_blobs import map_tensors
from registry.catalog import queries
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

UNTRAINED = Training(warm_start=False, tokens=0)
SHORT = Training(tokens=1024, sequence_length=64, batch_tokens=256)
IDS = torch.randint(3, 260, (2, 13), generator=torch.Generator().manual_seed(0))


def open_with_seed(root: Path, **settings: Any) -> Registry:
    registry = open_registry(root / "home", embedder="hashing:16")
    pico.write_pico(root / "seed", **settings)
    add_seed(registry, "base", root / "seed", license="MIT")
    return registry


def add_expert(registry: Registry, folder: Path, name: str, domain: str) -> None:
    data = pico.write_documents(folder.parent / f"{name}.jsonl", domain)
    contribute(registry, name, folder, seed="base", license="MIT", data=[data])


def composed(registry: Registry, *experts: str, **settings: Any) -> Any:
    recipe = {
        "name": "-".join(experts),
        "seed": "base",
        "experts": experts,
        "trunk_merge": "regmean",
        "training": UNTRAINED,
        **settings,
    }
    return compose(registry, Recipe.parse(recipe))


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


# --- another dtype ---------------------------------------------------------------------------------------


def write_float32_expert(seed: Path, out: Path, number: int, roles: str = "all") -> Path:
    """Write the bfloat16 seed in float32, with coarse noise and with noise below bfloat16's precision."""
    shutil.copytree(seed, out)
    path = out / "model.safetensors"
    save_file({k: t.float() for k, t in load_file(path).items()}, path, metadata={"format": "pt"})
    pico.edit_config(out, dtype="float32")
    return pico.branch_pico(out, out.with_name(f"{out.name}-{number}"), seed=number, scale=0.05, roles=roles)


@pytest.fixture(scope="module")
def mixed_dtypes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, dict[str, Path]]]:
    """A bfloat16 seed with the experts `code` and `law` in float32 and `math` in bfloat16."""
    root = tmp_path_factory.mktemp("dtypes")
    registry = open_with_seed(root, dtype="bfloat16")
    folders = {
        "code": write_float32_expert(root / "seed", root / "code", 1),
        "law": write_float32_expert(root / "seed", root / "law", 2, roles="ffn"),
        "math": pico.branch_pico(root / "seed", root / "math", seed=3, scale=0.05),
    }
    for name, folder in folders.items():
        add_expert(registry, folder, name, name)
    yield registry, folders
    registry.engine.dispose()


def test_the_lock_records_the_dtype_of_an_expert_that_is_not_its_seeds(
    mixed_dtypes: tuple[Registry, dict[str, Path]],
) -> None:
    registry, _ = mixed_dtypes
    lock = Lock.model_validate(
        json.loads(registry.blobs.read_bytes(composed(registry, "code", "math").mix.lock))
    )
    assert lock.seed.dtype == "BF16"
    assert [expert.dtype for expert in lock.experts] == ["F32", "BF16"]


def test_a_float32_trunk_enters_the_merge_in_float32_and_the_mean_is_rounded_once(
    mixed_dtypes: tuple[Registry, dict[str, Path]],
) -> None:
    registry, folders = mixed_dtypes
    merged = map_tensors(
        registry.blobs.path(composed(registry, "code", "math", trunk_merge="mean").manifest.trunk)
    )
    code, math = (load_file(folders[name] / "model.safetensors") for name in ("code", "math"))
    rounded_twice = 0
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, ((code[name] + math[name].float()) / 2).bfloat16())
        early = ((code[name].bfloat16().float() + math[name].float()) / 2).bfloat16()
        rounded_twice += int((tensor != early).sum())
    assert rounded_twice > 100, "the experts' float32 must hold more than bfloat16 does"


def test_the_mix_opens_in_the_dtype_that_computes_fast_and_contains_the_converted_expert(
    mixed_dtypes: tuple[Registry, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, folders = mixed_dtypes
    manifest = composed(registry, "code", "math").manifest
    for native, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        for units in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, units, lambda native=native: native)
        mix = open_mix(registry, manifest).model
        assert {p.dtype for n, p in mix.named_parameters() if ".router." not in n} == {dtype}
    source = load_file(folders["code"] / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    assert source.dtype == torch.float32
    assert torch.equal(mix.mixtures()[1].experts[0].up_proj.weight, source.bfloat16())
    assert torch.isfinite(logits(mix)).all()


def test_an_expert_that_equals_the_seed_in_another_dtype_stores_its_own_trunk_and_merges_to_the_seeds(
    mixed_dtypes: tuple[Registry, dict[str, Path]],
) -> None:
    registry, _ = mixed_dtypes
    law, seed = queries.get_expert(registry, "law"), queries.get_seed(registry, "base")
    assert not law.anchored
    assert composed(registry, "law").manifest.trunk == seed.trunk


def test_a_mix_of_two_dtypes_trains_extends_evaluates_and_loses_an_expert(
    mixed_dtypes: tuple[Registry, dict[str, Path]],
) -> None:
    registry, _ = mixed_dtypes
    first = composed(registry, "code", "math", name="trained", training=SHORT)
    for digest in (first.manifest.trunk, first.manifest.shared, *(m.ffn for m in first.manifest.members)):
        assert {t.dtype for t in map_tensors(registry.blobs.path(digest)).values()} == {torch.bfloat16}
    extended = extend(registry, "trained", "law", training=UNTRAINED)
    scores = evaluate(registry, extended.mix.ref)["bits_per_byte"]
    assert scores.keys() == {"code", "math", "law"}
    assert all(row.keys() == {"seed", "expert", "btm", "dense_merging", "mix"} for row in scores.values())
    assert remove(registry, "trained", "code").manifest.seed.dtype == "BF16"


# --- another width ---------------------------------------------------------------------------------------


def write_wide_expert(seed: Path, out: Path, number: int, width: int, model_type: str) -> Path:
    """Write an expert with the seed's trunk and FFNs of another width."""
    pico.write_pico(out, model_type=model_type, seed=number, intermediate_size=width)
    path = out / "model.safetensors"
    tensors, base = load_file(path), load_file(seed / "model.safetensors")
    tensors |= {name: tensor for name, tensor in base.items() if ".mlp." not in name}
    save_file(tensors, path, metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module", params=["llama", "phi3", "gpt_neox"])
def widths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Registry, dict[str, Path]]]:
    """A seed with FFNs of width 48; anchored experts: `code` of equal width, `math` wider, `law` narrower."""
    root = tmp_path_factory.mktemp(request.param)
    registry = open_with_seed(root, model_type=request.param)
    seed = root / "seed"
    folders = {
        "code": pico.branch_pico(seed, root / "code", seed=1, roles="ffn"),
        "math": write_wide_expert(seed, root / "math", 2, 80, request.param),
        "law": write_wide_expert(seed, root / "law", 3, 24, request.param),
    }
    for name, folder in folders.items():
        add_expert(registry, folder, name, name)
    yield registry, folders
    registry.engine.dispose()


def test_experts_of_other_widths_are_contributed_anchored_with_their_width(
    widths: tuple[Registry, dict[str, Path]],
) -> None:
    experts = [queries.get_expert(widths[0], name) for name in ("code", "math", "law")]
    assert [expert.ffn_width for expert in experts] == [48, 80, 24]
    assert all(expert.anchored for expert in experts)


def test_in_a_mix_each_expert_of_any_width_is_the_model_that_was_contributed(
    widths: tuple[Registry, dict[str, Path]],
) -> None:
    registry, folders = widths
    manifest = composed(registry, *folders).manifest
    assert [member.expert.ffn_width for member in manifest.members] == [48, 80, 24]
    mix = open_mix(registry, manifest).model
    for place, (member, folder) in enumerate(zip(manifest.members, folders.values(), strict=True)):
        expert = member.expert
        stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        dense = open_dense(registry, manifest.seed, expert.ffn, expert.trunk, ffn_width=expert.ffn_width)
        assert torch.equal(logits(dense), logits(stock))
        with forced(mix, place):
            torch.testing.assert_close(logits(mix), logits(stock), atol=1e-5, rtol=0)


def test_a_mix_of_several_widths_trains_extends_evaluates_generates_and_loses_an_expert(
    widths: tuple[Registry, dict[str, Path]],
) -> None:
    registry, _ = widths
    first = composed(registry, "code", "math", name="wide", training=SHORT)
    assert all(member.ffn != member.expert.ffn for member in first.manifest.members)
    extended = extend(registry, "wide", "law", training=SHORT)
    model = open_mix(registry, extended.manifest).model
    assert model.config.ffn_widths == [48, 80, 24]
    scores = evaluate(registry, extended.mix.ref)["bits_per_byte"]
    # Tensors of different shapes have no mean, so dense merging is omitted.
    assert all(row.keys() == {"seed", "expert", "btm", "mix"} for row in scores.values())
    assert len(generate(registry, extended.mix.ref, "def ", max_new_tokens=4, temperature=0).tokens) <= 4
    assert remove(registry, extended.mix.ref, "code").mix.experts == ("math@1", "law@1")


def test_a_mix_of_experts_that_are_all_wider_than_the_seed_has_a_seed_with_its_own_width(
    widths: tuple[Registry, dict[str, Path]],
) -> None:
    registry, _ = widths
    mix = open_mix(registry, composed(registry, "math").manifest).model
    shared, routed = (
        sum(p.numel() for p in module.parameters())
        for module in (mix.mixtures()[0].shared, mix.mixtures()[0].experts[0])
    )
    assert shared < routed
    assert torch.isfinite(logits(mix)).all()
