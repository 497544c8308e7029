"""Every family through all steps: contributed, composed, run, trained, extended, and split into experts again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from safetensors.torch import load_file
from stock_mixes import LLAMA3
from transformers import AutoModelForCausalLM

from composer.composition import compose
from composer.extension import extend, remove
from composer.generation import CACHE
from composer.mix.lock import lock_seed
from composer.mix.opening import open_dense, open_mix
from composer.mix.recipe import Recipe, Training
from composer.model.modeling import forced
from composer.tensors.torch_blobs import map_tensors
from composer.training.fine_tune import parameters
from registry.catalog import queries
from registry.checkpoints.families import FAMILIES
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

UNTRAINED = Training(warm_start=False, tokens=0)
SHORT = Training(tokens=512, sequence_length=64, batch_tokens=256)

PARTLY_ROTATED = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
MIXED_LAYERS = ["full_attention", "sliding_attention"]

# The test's id, the model type, and the seed's differences from the family's plain model.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-3.2": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "phi4-mini": ("phi3", {"tie_word_embeddings": True, "rope_parameters": PARTLY_ROTATED}),
    "ministral-8b": ("ministral", {"sliding_window": 4, "layer_types": MIXED_LAYERS}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    "mistral-sliding": ("mistral", {"sliding_window": 4, "head_dim": 12}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3-biases": ("qwen3", {"attention_bias": True}),
    "gemma2-untied": ("gemma2", {"tie_word_embeddings": False, "sliding_window": 4}),
    "gemma3-sliding": ("gemma3_text", {"sliding_window": 4, "layer_types": ["sliding_attention"] * 2}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "gpt_neox-tied": ("gpt_neox", {"tie_word_embeddings": True}),
    "cohere-untied": ("cohere", {"tie_word_embeddings": False, "use_qk_norm": True}),
    "ernie4_5-biases": ("ernie4_5", {"use_bias": True}),
    "exaone4-rotated": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "olmo3-sliding": ("olmo3", {"sliding_window": 4}),
    "llama-bf16": ("llama", {"dtype": "bfloat16"}),
    "gemma2-bf16": ("gemma2", {"dtype": "bfloat16"}),
    "llama-fp16": ("llama", {"dtype": "float16"}),
    "phi3-bf16": ("phi3", {"dtype": "bfloat16"}),
}


@dataclass(frozen=True)
class Published:
    """A registry with the seed `base` and its experts: `same` and `again` equal it, `code` and `math` are anchored."""

    registry: Registry
    seed: Path
    folders: dict[str, Path]


@pytest.fixture(scope="module", params=VARIANTS)
def published(
    request: pytest.FixtureRequest, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    model_type, overrides = VARIANTS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    (root / "home").mkdir()
    shutil.copyfile(empty_database, root / "home" / "registry.db")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed", model_type=model_type, **overrides)
    add_seed(registry, "base", seed, license="MIT")
    folders = {"same": seed, "again": seed}
    for number, name in enumerate(("code", "math"), 1):
        folders[name] = pico.branch_pico(seed, root / name, seed=number, scale=0.1, roles="ffn")
    folders["free"] = pico.branch_pico(seed, root / "free", seed=3)
    for name, domain in zip(folders, ("code", "math", "code", "math", "cooking"), strict=True):
        data = pico.write_documents(root / f"{name}.jsonl", domain, 20)
        contribute(
            registry, name, folders[name], seed="base", license="MIT", data=[data], allow_unchanged=True
        )
    yield Published(registry, seed, folders)
    registry.engine.dispose()


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


def token_ids(rows: int = 2, length: int = 13) -> torch.Tensor:
    return torch.randint(3, 260, (rows, length), generator=torch.Generator().manual_seed(0))


def stock_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def canonical(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's tensors under the names that transformers uses after loading."""
    renamed = {name: new for family in FAMILIES.values() for name, new in family.renamed.items()}
    return {renamed.get(name, name): t for name, t in load_file(folder / "model.safetensors").items()}


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=token_ids()).logits


def test_equal_experts_with_convex_gates_reproduce_the_dense_logits(published: Published) -> None:
    manifest = composed(published.registry, "same", "again").manifest
    mix = open_mix(published.registry, manifest, dtype=torch.float32).model
    seed = manifest.seed
    dense = open_dense(published.registry, seed, seed.ffn, seed.trunk, dtype=torch.float32)
    stock = logits(stock_model(published.seed))
    assert stock.std() > 1e-3
    torch.testing.assert_close(logits(dense), stock, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(mix), stock, atol=1e-5, rtol=0)


def test_a_forced_expert_is_the_model_that_was_contributed(published: Published) -> None:
    mix = open_mix(
        published.registry, composed(published.registry, "code", "math").manifest, dtype=torch.float32
    )
    seed = logits(stock_model(published.seed))
    for place, name in enumerate(("code", "math")):
        with forced(mix.model, place):
            routed = logits(mix.model)
        torch.testing.assert_close(routed, logits(stock_model(published.folders[name])), atol=1e-5, rtol=0)
        assert (routed - seed).abs().max() > 1e-3


def test_a_forced_expert_of_a_routed_trunk_is_the_model_that_was_contributed_exactly(
    published: Published,
) -> None:
    training = Training(warm_start=False)
    result = composed(published.registry, "code", "free", trunk_merge="routed", training=training)
    assert result.bytes_written < 2_000_000
    mix = open_mix(published.registry, result.manifest).model
    seed = result.manifest.seed
    for place, member in enumerate(result.manifest.members):
        dense = open_dense(published.registry, seed, member.ffn, member.expert.trunk)
        with forced(mix, place):
            assert torch.equal(logits(mix), logits(dense))


def test_a_mix_keeps_the_dtype_of_its_seed_and_its_router_stays_exact(published: Published) -> None:
    (stored,) = {tensor.dtype for tensor in load_file(published.seed / "model.safetensors").values()}
    manifest = composed(published.registry, "code", "math").manifest
    mix = open_mix(published.registry, manifest, dtype=stored).model
    dtypes = {name: p.dtype for name, p in mix.named_parameters()}
    assert {d for name, d in dtypes.items() if ".router." not in name} == {stored}
    assert {d for name, d in dtypes.items() if ".router." in name} == {torch.float32}
    assert torch.isfinite(logits(mix)).all()


def test_dense_to_roles_to_dense_gives_back_the_same_tensors(published: Published) -> None:
    registry = published.registry
    for name in ("code", "free"):
        expert = queries.get_expert(registry, name)
        ffn, trunk = (map_tensors(registry.blobs.path(digest)) for digest in (expert.ffn, expert.trunk))
        assert not ffn.keys() & trunk.keys()
        source = canonical(published.folders[name])
        assert (ffn | trunk).keys() == source.keys()
        assert all(torch.equal(tensor, source[name]) for name, tensor in (ffn | trunk).items())
        seed = lock_seed(queries.get_seed(registry, "base"))
        opened = open_dense(registry, seed, expert.ffn, expert.trunk).state_dict()
        assert all(torch.equal(opened[name], tensor) for name, tensor in source.items())


def test_training_lowers_the_loss_and_every_trained_parameter_gets_a_finite_gradient(
    published: Published,
) -> None:
    manifest = composed(published.registry, "code", "free", top_k=2).manifest
    model = open_mix(published.registry, manifest, dtype=torch.float32).model.train()
    trained = [parameter for _, parameter in parameters(model, "all", router=True)]
    for parameter in trained:
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for _ in range(5):
        loss = model(input_ids=token_ids(), labels=token_ids()).loss
        optimizer.zero_grad()
        loss.backward()
        missed = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missed
        assert all(torch.isfinite(p.grad).all() for p in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02


def test_one_token_at_a_time_with_a_cache_gives_what_all_at_once_gives(published: Published) -> None:
    mix = open_mix(
        published.registry, composed(published.registry, "code", "math").manifest, dtype=torch.float32
    )
    whole, cache, steps = logits(mix.model)[:1], None, []
    with torch.inference_mode():
        for token in token_ids()[0]:
            output = mix.model(input_ids=token.view(1, 1), use_cache=True, **{CACHE: cache})
            cache = output[CACHE]
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=0)
    written = mix.model.generate(token_ids()[:1], max_new_tokens=5, do_sample=False, eos_token_id=-1)
    with torch.inference_mode():
        full = mix.model(input_ids=written, use_cache=False).logits
    assert torch.equal(written[0, -5:], full[0, -6:-1].argmax(dim=-1))


def test_a_trained_mix_is_extended_and_an_expert_removed_from_it(published: Published) -> None:
    registry = published.registry
    first = composed(registry, "code", "free", training=SHORT)
    assert first.manifest.training["last_loss"] > 0
    assert all(
        torch.isfinite(t).all() for t in map_tensors(registry.blobs.path(first.manifest.trunk)).values()
    )
    seed_trunk = map_tensors(registry.blobs.path(first.manifest.seed.trunk))
    assert map_tensors(registry.blobs.path(first.manifest.trunk)).keys() == seed_trunk.keys()
    extended = extend(registry, first.mix.ref, "math", training=UNTRAINED)
    assert [m.expert.ref for m in extended.manifest.members] == ["code@1", "free@1", "math@1"]
    assert torch.isfinite(logits(open_mix(registry, extended.manifest).model)).all()
    removed = remove(registry, extended.mix.ref, "free")
    assert [m.expert.ref for m in removed.manifest.members] == ["code@1", "math@1"]
    assert torch.isfinite(logits(open_mix(registry, removed.manifest).model)).all()
