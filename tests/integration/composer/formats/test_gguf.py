"""GGUF files of mixes: llama.cpp computes the same tokens of a text and the same next-token probabilities."""

import shutil
from pathlib import Path

import pico
import pytest
from gguf import GGUFWriter
from random_context import publish_random_context
from stock_mixes import (
    CLOSE,
    HARD,
    LLAMA3,
    PROSE,
    ROOT,
    Transformers,
    exported,
    largest_difference,
    make_mix,
    make_tokenizer,
    mix_of,
)

from composer.errors import ExportError, RecipeError
from composer.formats import export
from composer.formats.gguf import refuse_unknown
from composer.formats.gguf_tokenizer import LLAMA3 as LLAMA3_STEP
from composer.formats.gguf_tokenizer import PRE_TOKENIZERS, QWEN2, add_tokenizer
from composer.formats.step35 import factors
from composer.tensors import rows
from registry.home import open_registry

DEMO = ROOT / "ui" / "demo" / "seed"


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


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A registry and its open mix. It has a null expert and 16 more embedding rows than tokens."""
    root = tmp_path_factory.mktemp("plain")
    registry = open_registry(root / "home", embedder="hashing:16")
    yield registry, make_mix(registry, root, settings={"null_experts": 1, "top_k": 2}, vocab_size=416)
    registry.engine.dispose()


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, "float32"),
        ({"tie_word_embeddings": True, "num_key_value_heads": 4}, "float32"),
        ({}, "q8_0"),
        ({"num_attention_heads": 4, "head_dim": 10}, "float32"),
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


def test_the_factors_of_llama_3_are_those_of_transformers():
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500_000.0 ** (-torch.arange(0, 64, 2) / 64)
    found = factors(500_000.0, rope, 64)
    torch.testing.assert_close(torch.from_numpy(found), plain / scaled)
    assert found[0] == 1 and found[-1] == 32 and len(set(found.tolist())) > 3


def test_the_rotary_embedding_of_llama_3_arrives_in_a_quantised_file(registry, tmp_path):
    mix = make_mix(registry, tmp_path, rope_parameters=LLAMA3)
    assert largest_difference(mix, exported(registry, tmp_path, dtype="q8_0")) < CLOSE["q8_0"]


@pytest.mark.parametrize(("model_type", "instead"), [("qwen2", "qwen2_moe"), ("qwen3", "qwen3_next")])
def test_the_rotary_embedding_of_llama_3_is_refused_where_llama_cpp_has_no_form_for_it(
    model_type, instead, registry, tmp_path
):
    mix = make_mix(registry, tmp_path, model_type, rope_parameters=LLAMA3)
    with pytest.raises(ExportError, match=f"rotary embedding .*llama3.*use --format {instead}"):
        export(registry, "mix", tmp_path / "out", format="gguf")
    export(registry, "mix", tmp_path / "stock", format=instead)
    assert largest_difference(mix, Transformers(tmp_path / "stock")) < CLOSE["float32"]


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
    assert kinds["blk.0.ffn_down_shexp.weight"] == "Q8_0"  # its rows of 48 numbers are padded to whole blocks
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
        ({"pre_tokenizer": as_json([LLAMA3_STEP])}, "its pre-tokenizer .* is equal to none of"),
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


def test_a_qwen3_mix_with_biases_is_refused_with_the_format_that_has_them(registry, tmp_path):
    mix = make_mix(registry, tmp_path, "qwen3", attention_bias=True)
    with pytest.raises(ExportError, match=r"attention_bias is true.*use --format qwen3_next"):
        export(registry, "mix", tmp_path / "out", format="gguf")
    export(registry, "mix", tmp_path / "stock", format="qwen3_next")
    assert largest_difference(mix, Transformers(tmp_path / "stock")) < CLOSE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "q8_0"])
def test_a_file_written_in_small_pieces_is_the_same_file(dtype, plain, tmp_path, monkeypatch):
    for name, piece in (("whole", rows.PIECE), ("parts", 200)):
        monkeypatch.setattr(rows, "PIECE", piece)
        export(plain[0], "mix", tmp_path / name, format="gguf", dtype=dtype)
    files = [tmp_path / name / "model.gguf" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_folder_has_the_file_and_its_card(plain, tmp_path):
    export(plain[0], "mix", tmp_path / "out", format="gguf")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["Modelfile", "README.md", "model.gguf"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "library_name: gguf" in card and "llama-server -m model.gguf" in card and "| code@1 | MIT |" in card
    )


def test_a_modelfile_names_the_file_the_stops_and_how_prompts_are_passed(plain, tmp_path, monkeypatch):
    def written(name):
        export(plain[0], "mix", tmp_path / name, format="gguf")
        return (tmp_path / name / "Modelfile").read_text().splitlines()

    raw = ["FROM ./model.gguf", 'PARAMETER stop "</s>"', 'TEMPLATE "{{ .Prompt }}"', 'LICENSE "MIT"']
    assert written("raw") == raw
    chat = make_tokenizer(template="{{ messages }}")
    monkeypatch.setattr("composer.formats.gguf.open_tokenizer", lambda *_: chat)
    assert [line[:10] for line in written("chat")] == ["FROM ./mod", "PARAMETER ", "# Ollama r", 'LICENSE "M']


TOOL = """#!/bin/sh
# In place of llama.cpp's tool: source, target, type.
[ "$3" = Q4_K_M ] || { echo "unknown type $3" >&2; exit 3; }
head -c 4 "$1" > "$2"
"""


def install_tool(folder, monkeypatch):
    folder.mkdir()
    (folder / "llama-quantize").write_text(TOOL)
    (folder / "llama-quantize").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_llama_cpps_own_tool_quantises_to_its_other_types(plain, tmp_path, monkeypatch):
    install_tool(tmp_path / "bin", monkeypatch)
    result = export(plain[0], "mix", tmp_path / "out", format="gguf", quantize="Q4_K_M")
    assert (result.dtype, result.bytes) == ("Q4_K_M", 4)
    assert (tmp_path / "out" / "model.gguf").read_bytes() == b"GGUF"
    assert [path.name for path in (tmp_path / "out").glob("*.gguf")] == ["model.gguf"]
    with pytest.raises(ExportError, match=r"did not quantise to Q9 \(exit code 3\): unknown type Q9"):
        export(plain[0], "mix", tmp_path / "wrong", format="gguf", quantize="Q9")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"quantize": "Q4_K_M"}, ExportError, "not on PATH: install llama.cpp, or use --dtype q8_0"),
        ({"quantize": "--help"}, RecipeError, "must be a name such as Q4_K_M, got '--help'"),
        ({"quantize": "Q4_K_M", "dtype": "q8_0"}, RecipeError, "quantised from a float type, got q8_0"),
        ({"quantize": "Q4_K_M", "format": "nexus"}, RecipeError, "use --format gguf"),
    ],
)
def test_a_quantisation_that_cannot_run_is_refused_before_anything_is_written(
    options, error, reason, plain, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error, match=reason):
        export(plain[0], "mix", tmp_path / "out", **{"format": "gguf", **options})
    assert not (tmp_path / "out").exists()
