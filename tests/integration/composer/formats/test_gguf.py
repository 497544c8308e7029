"""GGUF files of mixes: llama.cpp computes the same tokens of a text and the same next-token probabilities."""

import json
import shutil
from pathlib import Path

import pico
import pytest
import torch
from gguf import GGUFWriter
from llama_cpp import LlamaCpp
from random_context import publish_random_context

from composer.composition import compose
from composer.errors import ExportError
from composer.formats import export, rows
from composer.formats.gguf import refuse_unknown
from composer.formats.gguf_tokenizer import LLAMA3, PRE_TOKENIZERS, QWEN2, add_tokenizer
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

ROOT = Path(__file__).parents[4]
DEMO = ROOT / "ui" / "demo" / "seed"
PROSE = (ROOT / "LICENSE").read_text(encoding="utf-8")
PROMPTS = ["def area(radius):\n    return 3.14", "The theorem, she said, isn't", PROSE[:300]]
# Texts on which tokenizers differ: runs of spaces and digits, contractions, scripts, marks, composed symbols.
HARD = """It's WE'LL they'd  two   spaces\tand\ttabs \n\n  12345 1,234.5 x²½Ⅷ ٣٤٥\r\n
été Straße naïve e\u0301te\u0301 你好，世界 こんにちは 안녕
مرحبا नमस्ते Привет 👩🏽‍💻🇩🇪 ‘curly’ — …\u00a0nbsp\u2003em   \n"""
CLOSE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2, "q8_0": 0.2}  # of a log-probability


def make_tokenizer(pre_tokenizer=None, *, merge_words=False, begin=False, template=None, normalizer=None):
    """A tokenizer of 400 tokens, trained on LICENSE and HARD."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = json.loads(tokenizer.to_str())
    parts |= {"normalizer": normalizer} | ({"pre_tokenizer": pre_tokenizer} if pre_tokenizer else {})
    parts["model"]["ignore_merges"] = merge_words
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=pico.SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([PROSE, HARD], trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


def as_json(steps):
    """Steps of PRE_TOKENIZERS in the format of tokenizer.json."""
    spelt = {
        "ByteLevel": lambda regex: {"add_prefix_space": False, "trim_offsets": True, "use_regex": regex},
        "Digits": lambda each: {"individual_digits": each},
        "Split": lambda regex: {"pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
    }
    return {
        "type": "Sequence",
        "pretokenizers": [{"type": kind, **spelt[kind](value)} for kind, value in steps],
    }


def make_mix(registry, root, model_type="llama", *, settings=None, **config):
    """An open mix of two experts of a pico seed with a tokenizer of 400 tokens."""
    shape = {"vocab_size": 400, "initializer_range": 0.2, **config}
    seed = pico.write_pico(root / "seed", model_type=model_type, **shape)
    make_tokenizer().save_pretrained(seed)
    return mix_of(registry, root, seed, **(settings or {}))


def mix_of(registry, root, seed, **settings):
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    untrained = Training(warm_start=False, tokens=0)
    compose(
        registry, Recipe(name="mix", seed="pico", experts=["code", "math"], training=untrained, **settings)
    )
    return open_mix(registry, find_mix(registry, "mix")[1])


def exported(registry, root, **options):
    export(registry, "mix", root / "out", format="gguf", **options)
    return LlamaCpp(root / "out" / "model.gguf")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A registry and its open mix. It has a null expert and 16 more embedding rows than tokens."""
    root = tmp_path_factory.mktemp("plain")
    registry = open_registry(root / "home", embedder="hashing:16")
    yield registry, make_mix(registry, root, settings={"null_experts": 1, "top_k": 2}, vocab_size=416)
    registry.engine.dispose()


def largest_difference(mix, reader, prompts=PROMPTS, count=5):
    """Largest difference of the log-probabilities of the likeliest next tokens, over all prompts."""
    worst = 0.0
    for prompt in prompts:
        ids = mix.tokenizer(prompt)["input_ids"][:200]
        with torch.inference_mode():
            ours = mix.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(dim=-1)
        theirs = reader.top_log_probs(ids, count=count)
        assert set(ours.topk(1).indices.tolist()) <= set(theirs)
        worst = max(worst, *(abs(ours[i].item() - value) for i, value in theirs.items()))
    return worst


@pytest.mark.parametrize("combine", ["additive", "convex"])
@pytest.mark.parametrize(
    ("model_type", "config", "top_k"),
    [
        ("llama", {}, 1),
        ("llama", {"tie_word_embeddings": True}, 2),
        ("mistral", {"sliding_window": None, "num_key_value_heads": 4}, 2),
        ("qwen2", {"tie_word_embeddings": True}, 1),
    ],
)
def test_a_mix_runs_in_llama_cpp(model_type, config, top_k, combine, registry, tmp_path):
    mix = make_mix(registry, tmp_path, model_type, settings={"combine": combine, "top_k": top_k}, **config)
    reader = exported(registry, tmp_path)
    assert largest_difference(mix, reader) < CLOSE["float32"]
    ids = mix.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    written = mix.model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=2)
    assert reader.greedy(ids[0].tolist(), count=12) == written[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, "float32"),
        ({"tie_word_embeddings": True, "num_key_value_heads": 4}, "float32"),
        ({}, "q8_0"),
    ],
)
def test_context_heads_run_in_llama_cpp(config, dtype, registry, tmp_path):
    settings = {"router": "nexus_context", "trunk_merge": "regmean"}
    make_mix(registry, tmp_path, settings=settings, **config)
    mix = publish_random_context(registry, "mix")
    reader = exported(registry, tmp_path, dtype=dtype)
    assert largest_difference(mix, reader) < CLOSE[dtype]


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 500.0}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        YARN,
        {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    ],
)
def test_every_rotary_embedding_that_is_accepted_arrives_unchanged(rope, registry, tmp_path):
    mix = make_mix(registry, tmp_path, rope_parameters=rope)
    assert largest_difference(mix, exported(registry, tmp_path)) < CLOSE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8_0"])
def test_every_dtype_is_read_with_null_experts_and_rows_that_no_token_has(dtype, plain, tmp_path):
    registry, mix = plain
    reader = exported(registry, tmp_path, dtype=dtype)
    assert largest_difference(mix, reader) < CLOSE[dtype]


def test_the_file_says_what_it_stores_and_keeps_gates_and_vectors_in_float32(plain, tmp_path):
    from gguf import GGUFReader

    result = export(plain[0], "mix", tmp_path / "out", format="gguf", dtype="q8_0")
    reader = GGUFReader(tmp_path / "out" / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert result.dtype == "q8_0" and result.bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert kinds["token_embd.weight"] == kinds["blk.0.ffn_up_exps.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down_shexp.weight"] == "F16"  # rows of 48 numbers are not whole blocks of Q8_0
    single = ("norm.weight", "bias", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
    assert {kind for name, kind in kinds.items() if name.endswith(single)} == {"F32"}


def test_the_demos_tokenizer_reads_the_same_tokens_in_llama_cpp(registry, tmp_path):
    seed = pico.write_pico(tmp_path / "seed", vocab_size=4096, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, seed / name)
    mix = mix_of(registry, tmp_path, seed)
    reader = exported(registry, tmp_path)
    for text in (PROSE, HARD, Path(__file__).read_text(encoding="utf-8"), "a<|end|>b"):
        assert reader.token_ids(text) == mix.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(("steps", "merge_words"), PRE_TOKENIZERS, ids=PRE_TOKENIZERS.values())
def test_every_pre_tokenizer_of_the_table_splits_as_llama_cpps_does(
    steps, merge_words, plain, tmp_path, monkeypatch
):
    tokenizer = make_tokenizer(as_json(steps), merge_words=merge_words, begin=True)
    monkeypatch.setattr("composer.formats.gguf.open_tokenizer", lambda *_: tokenizer)
    reader = exported(plain[0], tmp_path)
    for text in (PROSE, HARD, Path(__file__).read_text(encoding="utf-8"), "a</s>b"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 0
        assert reader.token_ids(text) == ids


def test_a_chat_template_comes_along(plain, tmp_path, monkeypatch):
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}[assistant]"
    tokenizer = make_tokenizer(template=template)
    monkeypatch.setattr("composer.formats.gguf.open_tokenizer", lambda *_: tokenizer)
    messages = [{"role": "user", "content": "Hello"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False)
    assert exported(plain[0], tmp_path).chat_prompt(messages) == expected == "[user] Hello</s>[assistant]"


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (
            {"pre_tokenizer": as_json([("Split", r"\p{N}+|\s+"), ("ByteLevel", False)])},
            r"is equal to none of gpt-2, smollm",
        ),
        (
            {"pre_tokenizer": as_json([QWEN2, ("ByteLevel", False)]), "merge_words": True},
            "ignore_merges = True",
        ),
        ({"pre_tokenizer": as_json([LLAMA3])}, "its pre-tokenizer .* is equal to none of"),
        ({"normalizer": {"type": "Lowercase"}}, "it normalises text"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_differently_is_refused(tokenizer, reason):
    with pytest.raises(ExportError, match=reason):
        add_tokenizer(GGUFWriter(None, "qwen2moe"), make_tokenizer(**tokenizer), 400, [])


def test_a_tokenizer_is_refused_that_has_no_end_or_more_tokens_than_there_are_rows():
    with pytest.raises(ExportError, match="ids up to 399, but the embeddings have 300 rows"):
        add_tokenizer(GGUFWriter(None, "qwen2moe"), make_tokenizer(), 300, [])
    endless = make_tokenizer()
    endless.eos_token = None
    with pytest.raises(ExportError, match="no end-of-text token"):
        add_tokenizer(GGUFWriter(None, "qwen2moe"), endless, 400, [])
    add_tokenizer(GGUFWriter(None, "qwen2moe"), endless, 400, [1])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "the rotary embedding is llama3"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "the rotary embedding is dynamic"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "sets mscale"),
    ],
)
def test_a_mix_that_llama_cpp_computes_differently_is_refused_with_the_reason(config, reason):
    with pytest.raises(ExportError, match=reason):
        refuse_unknown({"hidden_act": "silu", "rope_scaling": None, **config})
    refuse_unknown({"hidden_act": "silu", "rope_scaling": None})


def test_a_mix_that_llama_cpp_cannot_express_leaves_no_folder(registry, tmp_path):
    make_mix(registry, tmp_path, hidden_act="gelu")
    with pytest.raises(ExportError, match="use --format qwen2_moe"):
        export(registry, "mix", tmp_path / "out", format="gguf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "q8_0"])
def test_a_file_written_in_small_pieces_is_the_same_file(dtype, plain, tmp_path, monkeypatch):
    for name, piece in (("whole", rows.PIECE), ("parts", 200)):
        monkeypatch.setattr(rows, "PIECE", piece)
        export(plain[0], "mix", tmp_path / name, format="gguf", dtype=dtype)
    files = [tmp_path / name / "model.gguf" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_folder_has_the_file_and_its_card(plain, tmp_path):
    export(plain[0], "mix", tmp_path / "out", format="gguf")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.gguf"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "library_name: gguf" in card and "llama-server -m model.gguf" in card and "| code@1 | MIT |" in card
    )
