"""Experts that are low-rank differences: stored and composed as such, whole where others need it; LoRA fine-tunes."""

import numpy as np
import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from composer.composition import compose, compose_lock
from composer.errors import RecipeError
from composer.evaluation.evaluate import evaluate
from composer.experts.lora import contribute_adapter
from composer.extension import extend
from composer.formats import export
from composer.gathering import first_lock
from composer.mix import opening
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import open_expert, open_mix
from composer.mix.recipe import Recipe, Training
from composer.model.modeling import forced
from composer.model.on_demand import weights_of
from composer.model.routed import add_differences, differences
from composer.routed_trunk import fine_tune
from registry.catalog import queries
from registry.catalog.verification import verify
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]


def write_adapter(seed_folder, out, *, seed, rank=3):
    """A PEFT adapter with random matrices, small enough to be a fine-tune of its seed."""
    import json

    out.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(seed_folder / "model.safetensors").items():
        if name.split(".")[-2] in TARGETS:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=generator) * 0.1
            tensors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=generator) * 0.1
    save_file(tensors, out / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": TARGETS}
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two low-rank experts, a whole one, and a seed with a sample of general text."""
    root = tmp_path_factory.mktemp("low-rank")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed")
    add_seed(registry, "pico", seed, license="MIT", data=[pico.write_documents(root / "law.jsonl", "law")])
    for number, name in enumerate(("code", "math"), 1):
        data = pico.write_documents(root / f"{name}.jsonl", name, 200)
        adapter = write_adapter(seed, root / name, seed=number)
        contribute_adapter(registry, name, adapter, seed="pico", license="MIT", data=[data])
    folder = pico.branch_pico(seed, root / "cooking", seed=3)
    data = pico.write_documents(root / "cooking.jsonl", "cooking", 200)
    contribute(registry, "cooking", folder, seed="pico", license="MIT", data=[data])
    registry.engine.dispose()
    return root / "home"


@pytest.fixture
def registry(home):
    opened = open_registry(home, embedder="hashing:16")
    yield opened
    opened.engine.dispose()


def recipe(name, experts=("code", "cooking", "math"), **settings):
    return Recipe.parse({"name": name, "seed": "pico", "experts": list(experts), **settings})


def dense(registry, name):
    seed = lock_seed(queries.get_seed(registry, "pico"))
    return open_expert(registry, seed, lock_expert(queries.get_expert(registry, name)))


IDS = torch.arange(3, 60)[None]


def test_a_contributed_adapter_is_stored_as_its_matrices_alone(registry):
    seed, expert = queries.get_seed(registry, "pico"), queries.get_expert(registry, "code")
    assert (expert.ffn, expert.trunk) == (seed.ffn, seed.trunk)
    matrices = load_file(registry.blobs.path(expert.difference))
    assert {name.split(".")[-2] for name in matrices} == set(TARGETS)
    assert registry.blobs.size(expert.difference) < registry.blobs.size(seed.ffn) / 2
    assert verify(registry, "code") == []


@torch.inference_mode()
def test_each_expert_of_a_mix_with_low_rank_experts_is_its_dense_model(registry):
    manifest = compose(registry, recipe("mixed", training={"warm_start": False})).manifest
    mix = open_mix(registry, manifest).model
    for place, name in enumerate(("code", "cooking", "math")):
        with forced(mix, place):
            torch.testing.assert_close(mix(IDS).logits, dense(registry, name)(IDS).logits, atol=2e-5, rtol=0)
    bases = {name.split("choices.")[1].split(".")[0] for name in mix.state_dict() if "choices." in name}
    assert bases == {"0", "1"}  # the whole expert and one copy of the seed


@torch.inference_mode()
def test_the_strength_of_a_low_rank_expert_scales_its_difference(registry):
    manifest = compose(registry, recipe("strong", ("code", "math"))).manifest
    members = [manifest.members[0].model_copy(update={"strength": 0.5}), manifest.members[1]]
    mix = open_mix(registry, manifest.model_copy(update={"members": members})).model
    start, end = dense(registry, "cooking"), dict(dense(registry, "code").named_parameters())
    seed = queries.get_seed(registry, "pico")
    base = dict(load_file(registry.blobs.path(seed.ffn)) | load_file(registry.blobs.path(seed.trunk)))
    halfway = {name: (base[name] + end[name].detach()) / 2 for name in base}
    start.load_state_dict(halfway, assign=True)
    with forced(mix, 0):
        torch.testing.assert_close(mix(IDS).logits, start(IDS).logits, atol=2e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_differences_take_no_memory_until_they_run_where_they_are_many(registry, monkeypatch, dtype):
    manifest = compose(registry, recipe("many", ("code", "math"))).manifest
    members = [manifest.members[0].model_copy(update={"strength": 0.5}), manifest.members[1]]
    manifest = manifest.model_copy(update={"members": members})
    at_once = open_mix(registry, manifest, dtype=dtype).model
    monkeypatch.setattr(opening, "COMPUTED_AT_ONCE", 0)
    on_demand = open_mix(registry, manifest, dtype=dtype).model
    for choice in range(2):
        with forced(at_once, choice), forced(on_demand, choice):
            torch.testing.assert_close(at_once(IDS).logits, on_demand(IDS).logits, atol=1e-6, rtol=0)
    owned = differences(on_demand, 0) | differences(on_demand, 1)
    mapped = [name for name in owned if ".differences.1." in name or name.endswith("lora_A")]
    assert list(owned) == (mapped if dtype == torch.float32 else [])
    expected = at_once.state_dict()
    for name, weight in weights_of(on_demand).items():
        assert torch.equal(weight.value(weight.dtype).to(expected[name].dtype), expected[name]), name
    assert weights_of(on_demand).keys() == expected.keys()


def test_composing_fifty_adapters_refers_to_them_and_opens_one_copy_of_the_seed(home, tmp_path):
    registry = open_registry(tmp_path / "home", embedder="hashing:16")
    seed = pico.write_pico(tmp_path / "seed")
    add_seed(registry, "pico", seed, license="MIT")
    data = pico.write_documents(tmp_path / "code.jsonl", "code", 30)
    names = [f"expert-{number}" for number in range(50)]
    for number, name in enumerate(names):
        adapter = write_adapter(seed, tmp_path / name, seed=number, rank=2)
        contribute_adapter(registry, name, adapter, seed="pico", license="MIT", data=[data])
    before = set(registry.blobs.iter_digests())
    result = compose(registry, recipe("fifty", names, training={"warm_start": False}))
    new = set(registry.blobs.iter_digests()) - before
    assert new == {result.manifest.router, result.manifest.lock, result.mix.manifest}
    model = open_mix(registry, result.manifest).model
    own = sum(p.numel() for n, p in model.named_parameters() if ".differences." not in n)
    assert own == sum(p.numel() for p in dense(registry, "expert-0").parameters())
    with torch.inference_mode(), forced(model, 49):
        torch.testing.assert_close(
            model(IDS).logits, dense(registry, "expert-49")(IDS).logits, atol=2e-5, rtol=0
        )
    registry.engine.dispose()


def test_a_merged_mix_takes_a_low_rank_expert_as_the_dense_model_that_it_is(registry, home, tmp_path):
    mixed = compose(
        registry, recipe("merged", trunk_merge="mean", training={"warm_start": False, "tokens": 0})
    )
    [ffn] = [m.ffn for m in mixed.manifest.members if m.expert.ref == "code@1"]
    found = load_file(registry.blobs.path(ffn))
    expected = dict(dense(registry, "code").named_parameters())
    assert found and all(torch.equal(tensor, expected[name].detach()) for name, tensor in found.items())
    trunk = load_file(registry.blobs.path(mixed.manifest.trunk))
    name = "model.layers.0.self_attn.q_proj.weight"
    seed = load_file(registry.blobs.path(queries.get_seed(registry, "pico").trunk))[name]
    parts = [seed, *(dict(dense(registry, n).named_parameters())[name] for n in ("code", "cooking", "math"))]
    options = [sum(parts) / 4, sum(parts[1:]) / 3]
    assert any(np.allclose(trunk[name], option.detach(), atol=1e-6) for option in options)


def test_a_mix_is_extended_by_a_low_rank_expert_and_recomposed_from_its_lock(registry):
    first = compose(registry, recipe("grows", ("cooking", "code")))
    second = extend(registry, first.mix.ref, "math")
    assert second.manifest.members[:2] == first.manifest.members
    again = compose_lock(registry, first_lock(registry, first.manifest), "again")
    assert again.mix.manifest == first.mix.manifest
    scores = evaluate(registry, second.mix.ref, max_bytes=2000)["bits_per_byte"]
    assert {"seed", "expert", "mix"} <= scores["math"].keys()


def test_an_exported_folder_contains_the_differences(registry, tmp_path):
    from transformers import AutoModelForCausalLM

    result = compose(registry, recipe("leaves"))
    export(registry, result.mix.ref, tmp_path / "out", format="nexus")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    mix = open_mix(registry, result.manifest).model
    with torch.inference_mode():
        torch.testing.assert_close(loaded(IDS).logits, mix(IDS).logits, atol=1e-5, rtol=0)
    assert any(".differences.2." in name for name in loaded.state_dict())


def test_a_card_names_the_matrices_of_a_low_rank_expert_and_what_a_fine_tune_added(registry, tmp_path):
    result = compose(registry, tuned("proven", ("code", "cooking")))
    export(registry, result.mix.ref, tmp_path / "out", format="nexus")
    card = (tmp_path / "out" / "README.md").read_text()
    low_rank = queries.get_expert(registry, "code")
    assert f"low-rank difference | {low_rank.difference.removeprefix('sha256:')} |" in card
    for member in result.manifest.members:
        assert f"{member.difference.removeprefix('sha256:')} |" in card
    assert "code@1 | FFNs" not in card and "cooking@1 | FFNs" in card


# --- the fine-tune ----------------------------------------------------------------------------------------


def tuned(name, experts=("code", "cooking", "math"), **training):
    settings = {"tokens": 4096, "sequence_length": 64, "lora_rank": 2, **training}
    return recipe(name, experts, trunk_merge="routed", training=settings)


def test_a_fine_tune_stores_differences_alone_and_lowers_the_loss(registry):
    before = set(registry.blobs.iter_digests())
    result = compose(registry, tuned("tuned", learning_rate=0.01))
    manifest = result.manifest
    new = set(registry.blobs.iter_digests()) - before
    own = {member.difference for member in manifest.members}
    assert None not in own and len(own) == 3
    assert new - {manifest.router} == own | {manifest.lock, result.mix.manifest}
    assert manifest.training["last_loss"] < manifest.training["first_loss"] - 0.05
    plain = compose(registry, recipe("plain"))
    scores = [evaluate(registry, r.mix.ref, max_bytes=3000)["bits_per_byte"] for r in (plain, result)]
    for domain in ("code", "cooking", "math"):
        assert scores[1][domain]["mix"] < scores[0][domain]["mix"]
    assert set(manifest.blobs()) >= own


def test_a_mix_opens_without_the_matrices_that_its_fine_tune_replaced(registry, monkeypatch):
    manifest = compose(registry, tuned("replaced", ("code", "math"), tokens=512)).manifest
    replaced = {member.expert.difference for member in manifest.members}
    assert replaced < set(manifest.blobs())
    read, path = set(), registry.blobs.path
    monkeypatch.setattr(
        registry.blobs, "path", lambda digest, **options: read.add(digest) or path(digest, **options)
    )
    open_mix(registry, manifest)
    assert manifest.weights() < read
    assert not replaced & read


@pytest.mark.parametrize(("best", "kept"), [(-1, 0), (0.3, 0.3), (0.6, 0.6), (2, 1)])
def test_of_a_fine_tune_the_share_that_predicts_best_is_kept(registry, monkeypatch, best, kept):
    mix = open_mix(registry, compose(registry, recipe("plain", ("code", "math"))).manifest, trainable=True)
    add_differences(mix.model, [0], 2)
    parameters = differences(mix.model, 0)
    before = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.data.fill_(1)
    values = lambda: next(iter(parameters.values())).mean().item()  # noqa: E731
    monkeypatch.setattr(fine_tune, "bits_per_byte", lambda model, text: (values() - best) ** 2)
    assert fine_tune.keep_best_share(mix, 0, before, ["a text that is not for choices"]) == 1
    assert fine_tune.keep_best_share(mix, 0, before, pico.domain_documents("code", 200)) == kept
    assert all(parameter.eq(kept).all() for parameter in parameters.values())


def test_a_fine_tune_that_helps_is_kept_and_the_shares_are_reported(registry):
    useful = compose(registry, tuned("useful", ("code", "math"), learning_rate=0.01)).manifest
    assert set(useful.training["kept"]) == {"code@1", "math@1"}
    assert min(useful.training["kept"].values()) > 0.5


def test_a_fine_tune_can_be_repeated_to_the_byte(registry):
    first = compose(registry, tuned("once", ("code", "cooking")))
    again = compose_lock(registry, first_lock(registry, first.manifest), "twice")
    assert again.mix.manifest == first.mix.manifest


def test_a_fine_tune_goes_on_from_differences_of_any_size(registry, monkeypatch):
    # At a strength other than 1, so that they must be computed.
    monkeypatch.setattr("composer.routed_trunk._strength", lambda *args: 0.5)
    first = compose(registry, tuned("small", ("code", "math"), tokens=512)).manifest
    monkeypatch.setattr(opening, "COMPUTED_AT_ONCE", 0)
    again = compose(registry, tuned("large", ("code", "math"), tokens=512)).manifest
    assert [m.strength for m in first.members] == [0.5, 0.5]
    assert again.members == first.members


def test_the_fine_tune_of_an_extension_trains_the_new_expert_alone(registry):
    first = compose(registry, tuned("base", ("code", "cooking")))
    second = extend(
        registry, first.mix.ref, "math", training=Training(tokens=2048, sequence_length=64, lora_rank=2)
    )
    assert second.manifest.members[:2] == first.manifest.members
    assert second.manifest.members[2].difference is not None


@pytest.mark.parametrize("option", [{"gradient_checkpointing": True}, {"micro_batches": 4}])
def test_options_that_save_memory_give_the_same_differences(registry, option):
    steps = {"tokens": 512, "batch_tokens": 256}
    plain, saving = (
        compose(registry, tuned(name, ("code", "cooking"), **steps, **extra)).manifest
        for name, extra in (("all-at-once", {}), ("little-memory", option))
    )
    for one, other in zip(plain.members, saving.members, strict=True):
        pairs = (load_file(registry.blobs.path(member.difference)) for member in (one, other))
        expected, found = pairs
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"train": "ffn"}, "leave out train,"),
        ({"load_balance": 0.5}, "leave out load_balance,"),
        ({"data_mix": "regmix"}, "leave out data_mix regmix,"),
        ({"train_router": True}, "leave out train_router,"),
    ],
)
def test_options_of_another_fine_tune_are_refused_by_name(training, told):
    with pytest.raises(RecipeError, match=told):
        recipe("wrong", trunk_merge="routed", training={"tokens": 100, **training})


def test_a_fine_tuned_mix_exports_and_opens_without_the_project(registry, tmp_path):
    from transformers import AutoModelForCausalLM

    result = compose(registry, tuned("abroad"))
    export(registry, result.mix.ref, tmp_path / "out", format="nexus")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    mix = open_mix(registry, result.manifest).model
    with torch.inference_mode():
        torch.testing.assert_close(loaded(IDS).logits, mix(IDS).logits, atol=1e-5, rtol=0)
