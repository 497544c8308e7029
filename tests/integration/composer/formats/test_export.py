"""Exports of mixes: the exported model in a stock library computes the mix's logits."""

import json
import os
import subprocess
import sys

import pico
import pytest
import torch
from random_context import publish_random_context

from composer.composition import compose
from composer.errors import ExportError, RecipeError
from composer.evaluation.evaluate import evaluate
from composer.formats import export
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from composer.tensors.torch_blobs import map_tensors
from registry.checkpoints.tensors import read_checkpoint
from registry.errors import ConflictError, IntegrityError
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

UNTRAINED = Training(warm_start=False, tokens=0)
PROMPTS = [" ".join(pico.domain_documents(domain, count=1)[0].split()[:12]) for domain in ("code", "math")]
LONG = " ".join(pico.domain_documents("law", count=1, words=30))
# Loads folders where our packages cannot be imported, and prints the models' outputs. Each pair of lines, a folder and
# a prompt, is read in a new process, forked after the libraries' imports.
STRANGER = """
import json, os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("composer", "registry", "ui"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

def run(folder, prompt):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, dtype="auto"
    )
    ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(ids).logits
        written = model.generate(ids, max_new_tokens=12, do_sample=False)
    return {
        "class": type(model).__name__, "problems": sorted(info["missing_keys"]) + sorted(info["unexpected_keys"]),
        "dtype": str(logits.dtype), "logits": logits.float().tolist(), "written": written[0].tolist(),
    }

while folder := sys.stdin.readline().strip():
    prompt = sys.stdin.readline().strip()
    child = os.fork()
    if child == 0:
        print(json.dumps(run(folder, prompt)), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        print("null", flush=True)
"""


def make_registry(root, model_type="llama", *, widths=(None, None), dtype="float32", **config):
    """A registry with one seed and the experts `code` and `math`, with enough noise to make every error visible."""
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed", model_type=model_type, dtype=dtype, initializer_range=0.2, **config)
    add_seed(registry, "pico", seed, license="Apache-2.0", description="A *pico* seed | <b>bold</b>")
    for number, (name, width) in enumerate(zip(("code", "math"), widths, strict=True), 1):
        source = seed
        if width is not None:
            settings = {**config, "initializer_range": 0.2, "intermediate_size": width}
            source = pico.write_pico(root / f"{name}-wide", model_type=model_type, dtype=dtype, **settings)
        folder = pico.branch_pico(source, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        options = {"allow_unrelated": width is not None}  # a wide expert has new random weights
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data], **options)
    return registry


def make_mix(registry, name="mix", dtype=None, **settings):
    settings = {"trunk_merge": "regmean", **settings}
    recipe = Recipe(name=name, seed="pico", experts=["code", "math"], training=UNTRAINED, **settings)
    compose(registry, recipe)
    return open_mix(registry, find_mix(registry, name)[1], dtype=dtype)


def load(folder):
    """Load the stock model of a folder; no tensor may be missing or unexpected."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def assert_same_function(mix, model, prompts=(*PROMPTS, LONG)):
    for prompt in prompts:
        ids = mix.tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            ours, theirs = mix.model(ids).logits, model(ids).logits
            assert ours.std() > 0.1  # logits near zero would agree for any weights
            torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
            settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": -1, "pad_token_id": 2}
            assert torch.equal(model.generate(ids, **settings), mix.model.generate(ids, **settings))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    registry = make_registry(tmp_path_factory.mktemp("llama"))
    yield registry
    registry.engine.dispose()


@pytest.fixture(scope="module")
def shared_registry(tmp_path_factory):
    """Makes a registry as `make_registry` does, once for all tests that ask for the same one."""
    made = {}

    def shared(model_type="llama", **settings):
        key = json.dumps([model_type, settings], sort_keys=True)
        if key not in made:
            made[key] = make_registry(tmp_path_factory.mktemp(model_type), model_type, **settings)
        return made[key]

    yield shared
    for registry in made.values():
        registry.engine.dispose()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Opens a folder and continues a prompt where our packages are absent; returns what STRANGER prints."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", STRANGER],
            cwd=folder,
            env={**os.environ, "HF_HOME": str(folder / "hf")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

        def run(model, prompt):
            process.stdin.write(f"{model}\n{prompt}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line not in ("", "null\n"), (folder / "errors").read_text()
            return json.loads(line)

        yield run
        process.communicate()


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("combine", ["additive", "convex"])
@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "hidden_act": "gelu", "rms_norm_eps": 1e-3}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 256}),  # as long as the positions: it masks nothing
        ("qwen2", {}),
    ],
)
def test_a_mix_runs_as_stock_qwen2_moe(model_type, config, combine, top_k, shared_registry, tmp_path):
    registry, name = shared_registry(model_type, **config), f"{combine}-{top_k}"
    mix = make_mix(registry, name, combine=combine, top_k=top_k)
    export(registry, name, tmp_path / "out", format="qwen2_moe")
    model = load(tmp_path / "out")
    assert type(model).__name__ == "Qwen2MoeForCausalLM"
    assert_same_function(mix, model)


@pytest.mark.parametrize(
    ("model_type", "config", "settings"),
    [
        ("llama", {}, {}),  # two query heads per key head
        ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}, {"combine": "additive"}),
        ("llama", {"num_key_value_heads": 1, "num_hidden_layers": 5, "rms_norm_eps": 1e-3}, {"top_k": 2}),
        ("llama", {"num_attention_heads": 16, "num_key_value_heads": 16}, {}),
        ("mistral", {"sliding_window": None}, {"top_k": 2, "null_experts": 1}),
        ("qwen2", {"num_key_value_heads": 4}, {}),
    ],
)
def test_context_becomes_attention_heads(model_type, config, settings, tmp_path):
    registry = make_registry(tmp_path, model_type, **config)
    make_mix(registry, router="nexus_context", trunk_merge="regmean", **settings)
    mix = publish_random_context(registry, "mix")
    export(registry, "mix", tmp_path / "out", format="qwen2_moe")
    model = load(tmp_path / "out")
    assert model.config.hidden_size > 32 and model.config.hidden_size % 32 == 0
    assert model.config.hidden_size % model.config.num_attention_heads == 0
    assert_same_function(mix, model)
    ids = mix.tokenizer(LONG, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        ours, theirs = (m(ids).logits[0, -1].log_softmax(-1) for m in (mix.model, model))
        top = ours.topk(5).indices
        torch.testing.assert_close(theirs[top], ours[top], atol=1e-5, rtol=0)
        for mixture in mix.model.mixtures():  # the context matters
            mixture.router.directions = torch.zeros_like(mixture.router.directions)
        assert (mix.model(ids).logits[0, -1] - theirs).abs().max() > 1e-2


@pytest.mark.parametrize(("dtype", "close"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_context_heads_survive_half_precision(dtype, close, llama, tmp_path):
    from transformers import AutoModelForCausalLM

    make_mix(llama, f"context-{dtype}", router="nexus_context", trunk_merge="regmean")
    mix = publish_random_context(llama, f"context-{dtype}")
    export(llama, f"context-{dtype}", tmp_path / "out", format="qwen2_moe", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32").eval()
    ids = mix.tokenizer(LONG, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        ours, theirs = (m(ids).logits.log_softmax(-1) for m in (mix.model, model))
    assert (ours - theirs).abs().median() < close


@pytest.mark.parametrize("opened_as", ["auto", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_shared_gate_is_not_zero_but_computes_the_same_as_zero(dtype, opened_as, llama, tmp_path):
    from transformers import AutoModelForCausalLM

    make_mix(llama, f"gated-{dtype}-{opened_as}")
    export(llama, f"gated-{dtype}-{opened_as}", tmp_path / "out", format="qwen2_moe", dtype=dtype)
    gates = {
        name: tensor
        for name, tensor in map_tensors(tmp_path / "out" / "model.safetensors").items()
        if "shared_expert_gate" in name
    }
    assert len(gates) == 2 and all((gate > 0).all() for gate in gates.values())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=opened_as).eval()
    ids = torch.arange(3, 200)[None]
    with torch.inference_mode():
        logits = model(ids).logits
        for name in gates:
            model.get_parameter(name).zero_()
        assert torch.equal(model(ids).logits, logits)


def test_a_tied_head_is_written_out_for_readers_that_know_no_tied_qwen2_moe(tmp_path):
    registry = make_registry(tmp_path, tie_word_embeddings=True)
    make_mix(registry)
    export(registry, "mix", tmp_path / "out", format="qwen2_moe")
    tensors = map_tensors(tmp_path / "out" / "model.safetensors")
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("combine", ["additive", "convex"])
@pytest.mark.parametrize("router", ["nexus", "linear", "random"])
def test_experts_of_different_widths_are_padded_to_the_widest(router, combine, shared_registry, tmp_path):
    registry, name = shared_registry(widths=(40, 72)), f"{router}-{combine}"
    mix = make_mix(registry, name, combine=combine, router=router)
    export(registry, name, tmp_path / "out", format="qwen2_moe")
    model = load(tmp_path / "out")
    assert model.config.moe_intermediate_size == (128 if combine == "convex" else 96)  # whole blocks of 32
    assert_same_function(mix, model)


@pytest.mark.parametrize("combine", ["additive", "convex"])
def test_a_null_expert_is_exported_as_one_whose_weights_are_zero(combine, llama, tmp_path):
    mix = make_mix(llama, f"null-{combine}", combine=combine, top_k=2, null_experts=1)
    export(llama, f"null-{combine}", tmp_path / "out", format="qwen2_moe")
    model = load(tmp_path / "out")
    assert model.config.num_experts == 3
    assert_same_function(mix, model)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"top_p": 0.6}, r"the same number of experts for every token.*\(top_p = 0\.6\)"),
        ({"router": "recurrent"}, "the recurrent router carries a state from block to block"),
    ],
)
def test_routing_that_qwen2_moe_cannot_express_is_refused_with_the_reason(settings, reason, llama, tmp_path):
    make_mix(llama, "beyond", **settings)
    with pytest.raises(ExportError, match=reason):
        export(llama, "beyond", tmp_path / "out", format="qwen2_moe")


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 500.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 500.0,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_every_rotary_embedding_that_is_accepted_arrives_unchanged(rope, tmp_path):
    registry = make_registry(tmp_path, rope_parameters=rope)
    mix = make_mix(registry)
    export(registry, "mix", tmp_path / "out", format="qwen2_moe")
    assert_same_function(mix, load(tmp_path / "out"))


@pytest.mark.parametrize(
    ("model_type", "config", "reason"),
    [
        ("llama", {"attention_bias": True}, "attention_bias is true"),
        ("llama", {"mlp_bias": True}, "mlp_bias is true"),
        ("llama", {"head_dim": 16}, "head_dim is 16"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
            "a sliding window of 16 tokens",
        ),
        ("mistral", {"sliding_window": 16}, "a sliding window of 16 tokens"),
        ("gemma2", {}, "gemma2 mix cannot be a Qwen2-MoE model"),
        (
            "gpt_neox",
            {"num_key_value_heads": 4},
            "gpt_neox mix cannot be a Qwen2-MoE model.*no gate projection",
        ),
        ("granite", {"mlp_bias": True}, "mlp_bias is true"),
        ("qwen3", {}, "architecture Qwen3-Next; use --format qwen3_next"),
    ],
)
def test_a_mix_that_qwen2_moe_cannot_express_is_refused_with_the_reason(model_type, config, reason, tmp_path):
    registry = make_registry(tmp_path, model_type, **config)
    make_mix(registry)
    with pytest.raises(ExportError, match=reason):
        export(registry, "mix", tmp_path / "out", format="qwen2_moe")
    assert not (tmp_path / "out").exists()


def test_every_family_has_a_stock_format_or_the_reason_why_not():
    from composer.formats.expressible import FORMATS, UNLIKE
    from composer.variants import EXPORT_FORMATS
    from registry.checkpoints.families import FAMILIES

    assert FORMATS.keys() | UNLIKE.keys() == FAMILIES.keys() and not FORMATS.keys() & UNLIKE.keys()
    assert all(EXPORT_FORMATS.find(format) for format in FORMATS.values())


def test_a_stock_format_of_another_family_names_the_right_one(llama, tmp_path):
    make_mix(llama, "other")
    with pytest.raises(ExportError, match=r"llama mix cannot be a Qwen3-Next.*use --format qwen2_moe"):
        export(llama, "other", tmp_path / "out", format="qwen3_next")


def test_a_qwen3_next_export_ends_with_the_linear_attention_that_older_readers_require(tmp_path):
    registry = make_registry(tmp_path, model_type="qwen3")
    make_mix(registry)
    export(registry, "mix", tmp_path / "out", format="qwen3_next")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["layer_types"] == ["full_attention", "full_attention", "linear_attention"]
    last = {n: t for n, t in map_tensors(tmp_path / "out" / "model.safetensors").items() if ".layers.2." in n}
    assert "model.layers.2.linear_attn.conv1d.weight" in last
    assert not any(tensor.any() for tensor in last.values())


@pytest.mark.parametrize(
    ("model_type", "dtype", "settings"),
    [
        ("llama", "float32", {"router": "linear", "combine": "additive", "top_k": 2}),
        ("llama", "float32", {"router": "recurrent", "top_p": 0.6, "null_experts": 1}),
        ("llama", "bfloat16", {}),
        ("gemma2", "float32", {}),
        ("gpt_neox", "float32", {}),
        ("llama", "float32", {"router": "nexus_context"}),
        ("gemma2", "bfloat16", {"router": "nexus_context"}),
        ("llama", "float32", {"trunk_merge": "routed"}),
        ("gemma2", "bfloat16", {"trunk_merge": "routed"}),
    ],
)
def test_a_nexus_folder_opens_where_our_packages_are_absent(
    model_type, dtype, settings, shared_registry, stranger, tmp_path
):
    config = {"num_key_value_heads": 4} if model_type == "gpt_neox" else {}
    registry = shared_registry(model_type, dtype=dtype, **config)
    name = "-".join(["mix", *map(str, settings.values())]).replace(".", "")
    mix = make_mix(registry, name, dtype=getattr(torch, dtype), **settings)
    export(registry, name, tmp_path / "out", format="nexus", max_shard_bytes=100_000)
    said = stranger(tmp_path / "out", PROMPTS[0])
    ids = mix.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = mix.model(ids).logits
        written = mix.model.generate(ids, max_new_tokens=12, do_sample=False)[0].tolist()
    assert (said["class"], said["problems"]) == ("NexusForCausalLM", [])
    assert said["dtype"] == f"torch.{dtype}"
    # Mapped weights have other memory alignments, so kernels may sum in another order.
    torch.testing.assert_close(torch.tensor(said["logits"]), logits.float(), atol=1e-5, rtol=0)
    assert said["written"] == written


def test_the_bundled_file_imports_nothing_but_torch_transformers_and_the_standard_library():
    import ast

    from composer.formats.nexus import bundle

    tree = ast.parse(bundle())
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert roots - set(sys.stdlib_module_names) == {"torch", "transformers"}


def test_shards_contain_every_tensor_once_and_the_index_names_them(llama, tmp_path):
    make_mix(llama, "sharded")
    whole = export(llama, "sharded", tmp_path / "whole", format="qwen2_moe")
    parts = export(llama, "sharded", tmp_path / "parts", format="qwen2_moe", max_shard_bytes=40_000)
    shards = sorted(path.name for path in (tmp_path / "parts").glob("*.safetensors"))
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    # The registry's strict reader: no duplicate tensor, and none that the index does not name.
    one, many = read_checkpoint(tmp_path / "whole"), read_checkpoint(tmp_path / "parts")
    assert {n: (i.dtype, i.shape) for n, i in one.items()} == {n: (i.dtype, i.shape) for n, i in many.items()}
    assert whole.bytes == parts.bytes == sum(info.nbytes for info in one.values())
    for name, info in one.items():
        start, stop = many[name].start, many[name].end
        assert info.path.read_bytes()[info.start : info.end] == many[name].path.read_bytes()[start:stop]


def test_experts_are_stored_one_by_one_on_disk(llama, tmp_path):
    make_mix(llama, "listed")
    export(llama, "listed", tmp_path / "out", format="qwen2_moe")
    names = set(read_checkpoint(tmp_path / "out"))
    assert "model.layers.1.mlp.experts.1.gate_proj.weight" in names
    assert not [name for name in names if "gate_up_proj" in name]


def test_a_dtype_converts_the_tensors_and_the_configuration(llama, tmp_path):
    make_mix(llama, "halved")
    for format in ("nexus", "qwen2_moe"):
        assert export(llama, "halved", tmp_path / format, format=format, dtype="bfloat16").dtype == "bfloat16"
        stored = read_checkpoint(tmp_path / format)
        routing = (".router.", ".mlp.gate.")
        assert {i.dtype for n, i in stored.items() if not any(part in n for part in routing)} == {"BF16"}
        assert {i.dtype for n, i in stored.items() if any(part in n for part in routing)} == {"F32"}
    assert load(tmp_path / "qwen2_moe").dtype == torch.bfloat16


def test_an_existing_folder_is_refused_and_left_as_it_is(llama, tmp_path):
    make_mix(llama, "late")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs.txt").write_text("precious")
    with pytest.raises(ConflictError, match="exists already"):
        export(llama, "late", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs.txt"]


def test_a_damaged_blob_fails_the_export_and_leaves_nothing(tmp_path):
    registry = make_registry(tmp_path)
    make_mix(registry)
    path = registry.blobs.path(find_mix(registry, "mix")[1].members[0].ffn)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    fresh = open_registry(tmp_path / "home", embedder="hashing:16")
    for format in ("nexus", "qwen2_moe"):
        with pytest.raises((IntegrityError,)):
            export(fresh, "mix", tmp_path / "exports" / "out", format=format)
        assert list((tmp_path / "exports").iterdir()) == []
        path.write_bytes(content)


def test_an_interrupted_export_leaves_nothing_behind(llama, tmp_path):
    make_mix(llama, "broken")

    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(llama, "broken", tmp_path / "deep" / "out", progress=interrupt)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("wrong", [{"format": "onnx"}, {"dtype": "int8"}, {"dtype": "q8_0"}])
def test_the_error_for_an_unknown_format_or_dtype_lists_the_known_ones(llama, tmp_path, wrong):
    make_mix(llama, f"wrong-{next(iter(wrong))}")
    with pytest.raises(RecipeError, match="expected one of"):
        export(llama, f"wrong-{next(iter(wrong))}", tmp_path / "out", **wrong)


def test_a_card_names_the_parts_the_licences_and_the_newest_measurements(llama, tmp_path):
    make_mix(llama, "carded")
    export(llama, "carded", tmp_path / "before")
    assert not (tmp_path / "before" / "routing.svg").exists()
    result = evaluate(llama, "carded", max_bytes=2000)
    export(llama, "carded", tmp_path / "after")
    card = (tmp_path / "after" / "README.md").read_text()
    assert all(
        f"| {name} | {license} |" in card for name, license in [("code@1", "MIT"), ("pico", "Apache-2.0")]
    )
    assert f"{result['bits_per_byte']['code']['mix']:.4f}" in card
    assert "<svg" in (tmp_path / "after" / "routing.svg").read_text()
    # The description is untrusted: it must neither break the table nor become markup.
    assert r"A \*pico\* seed \| \<b\>bold\</b\>" in card


def test_the_tokenizer_and_the_generation_settings_come_along(llama, tmp_path):
    from transformers import AutoTokenizer

    mix = make_mix(llama, "spoken")
    export(llama, "spoken", tmp_path / "out", format="qwen2_moe")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(LONG)["input_ids"] == mix.tokenizer(LONG)["input_ids"]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 1


def test_the_tokenizer_is_named_so_that_a_reader_does_not_guess_it_from_the_model_type(llama, tmp_path):
    make_mix(llama, "named")
    export(llama, "named", tmp_path / "out", format="qwen2_moe")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
