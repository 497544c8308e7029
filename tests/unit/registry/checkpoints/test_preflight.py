"""Preflight: an expert that computes another function than its seed's is refused with all reasons."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pico
import pytest

from registry.checkpoints.configs import config_mismatches, differences, normalised
from registry.checkpoints.families import FAMILIES
from registry.checkpoints.preflight import Checkpoint, check_expert, check_seed
from registry.errors import (
    IncompatibleError,
    InvalidInputError,
    RegistryError,
    UnsafeFileError,
    UnsupportedFamilyError,
)
from registry.records import SeedRecord

Check = Callable[[Path], Checkpoint]


def seed_record(checkpoint: Checkpoint) -> SeedRecord:
    return SeedRecord(
        name="base",
        license="Apache-2.0",
        description="",
        model_type=checkpoint.family.model_type,
        config=checkpoint.config,
        dtype=checkpoint.roles.dtype,
        parameters=checkpoint.roles.parameters,
        ffn="",
        trunk="",
        files={},
        sample=None,
        held_out=None,
        chunk_vectors=None,
        created_at=datetime.now(UTC),
    )


def checker(seed: Path) -> Check:
    """Checks a folder as an expert of the seed in the given folder."""
    checkpoint = check_seed(seed)
    return lambda folder: check_expert(seed_record(checkpoint), checkpoint.files, folder)


@pytest.fixture
def check(pico_seed: Path) -> Check:
    return checker(pico_seed)


@pytest.fixture
def expert(pico_expert: Path, tmp_path: Path) -> Path:
    """A copy of the pico expert that a test may change."""
    return Path(shutil.copytree(pico_expert, tmp_path / "expert"))


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(check: Check, folder: Path) -> tuple[str, ...]:
    with pytest.raises(IncompatibleError) as caught:
        check(folder)
    assert all(reason in str(caught.value) for reason in caught.value.mismatches)
    return caught.value.mismatches


def test_an_expert_of_the_seed_passes_with_its_facts(check: Check, expert: Path) -> None:
    checkpoint = check(expert)
    assert checkpoint.roles.ffn_width == 48
    assert checkpoint.roles.parameters == 32608
    assert checkpoint.family.model_type == "llama"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rms_norm_eps", 1e-5),
        ("hidden_act", "gelu"),
        ("some_field_of_the_future", 3),
        ("sliding_window", 128),
    ],
)
def test_a_field_that_changes_the_function_is_refused_with_both_values(
    check: Check, expert: Path, pico_seed: Path, field: str, value: Any
) -> None:
    pico.edit_config(expert, **{field: value})
    mine = json.loads((pico_seed / "config.json").read_text()).get(field)
    (reason,) = refusal(check, expert)
    assert reason == (
        f"config.json: {field}: seed has {'nothing' if mine is None else ascii(mine)}, expert has {value!a}"
    )


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"rope_type": "default", "rope_theta": 500000.0}, "rope_parameters.rope_theta"),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}, "rope_parameters.factor"),
        (
            {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
            "partial_rotary_factor",
        ),
    ],
)
def test_another_rotary_embedding_is_refused_by_its_inner_field(
    check: Check, expert: Path, rope: dict[str, Any], named: str
) -> None:
    pico.edit_config(expert, rope_parameters=rope)
    assert any(named in reason for reason in refusal(check, expert))


def test_flat_rotary_settings_count_next_to_anything_nested_in_them(check: Check, expert: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "notes": {"by": "somebody"}}
    pico.edit_config(expert, rope_parameters=rope)
    assert any("rope_type" in reason for reason in refusal(check, expert))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_dropout": 0.1, "initializer_range": 0.5, "use_cache": False},
        {"dtype": "bfloat16", "torch_dtype": "float16", "transformers_version": "4.40.0"},
        {"_name_or_path": "x", "architectures": None, "pretraining_tp": 2, "id2label": {"0": "A"}},
        {"pad_token_id": 7, "gradient_checkpointing": True, "return_dict": False},
        {"temperature": 0.3, "max_length": 99, "do_sample": True},
        {"max_position_embeddings": 512},
        {"mlp_bias": ..., "attention_bias": ..., "head_dim": ..., "tie_word_embeddings": ...},
        {"head_dim": None, "sliding_window": None, "eos_token_id": [1]},
    ],
)
def test_fields_that_cannot_matter_and_defaults_left_out_do_not_block(
    check: Check, expert: Path, changes: dict[str, Any]
) -> None:
    check(pico.edit_config(expert, **changes))


def test_transformers_4_and_5_spell_the_same_rotary_embedding(check: Check, expert: Path) -> None:
    pico.edit_config(expert, rope_parameters=..., rope_theta=10000, rope_scaling=None)
    check(expert)
    pico.edit_config(expert, rope_theta=10001)
    (reason,) = refusal(check, expert)
    assert reason == "config.json: rope_parameters.rope_theta: seed has 10000.0, expert has 10001"


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_configuration_of_sizes_alone_equals_what_transformers_makes_of_it(model_type: str) -> None:
    from transformers import AutoConfig

    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 8,
        "vocab_size": 300_000,
    }
    written = AutoConfig.for_model(model_type, **sizes).to_dict()
    family = FAMILIES[model_type]
    assert (
        differences(normalised(family, {"model_type": model_type, **sizes}), normalised(family, written))
        == []
    )


@pytest.mark.parametrize(
    ("model_type", "old"),
    [
        ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 25000}),
        ("gemma3_text", {"rope_theta": 5e5, "rope_local_base_freq": 3e4, "sliding_window_pattern": 2}),
        ("phi3", {"rope_theta": 2e4, "partial_rotary_factor": 0.5}),
        ("llama", {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}),
        (
            "llama",
            {
                "rope_theta": 5e5,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 128,
                },
            },
        ),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3}),
        ("cohere2", {"sliding_window_pattern": 2, "rope_theta": 5e4}),
        ("olmo3", {"rope_theta": 5e4}),
        ("olmo3", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("smollm3", {"no_rope_layer_interval": 2, "rope_theta": 5e6}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 64}),
        ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 6, "rope_theta": 1e6}),
        ("exaone4", {"sliding_window_pattern": 2}),
        ("glm4", {"partial_rotary_factor": 1.0}),
    ],
)
def test_an_old_spelling_equals_what_transformers_makes_of_it(model_type: str, old: dict[str, Any]) -> None:
    from transformers import AutoConfig

    config = {
        "model_type": model_type,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "vocab_size": 300_000,
        **old,
    }
    new = AutoConfig.for_model(**json.loads(json.dumps(config))).to_dict()
    family = FAMILIES[model_type]
    assert differences(normalised(family, config), normalised(family, new)) == []
    plain = {key: value for key, value in config.items() if key not in old}
    assert differences(normalised(family, config), normalised(family, plain)) != []


def test_a_window_that_is_switched_off_and_a_malformed_list_of_layers_in_smollm3() -> None:
    family = FAMILIES["smollm3"]
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": 300}
    assert config_mismatches(family, sizes, {**sizes, "sliding_window": 64}) == []
    assert config_mismatches(family, sizes, {**sizes, "no_rope_layers": [1, 1, 1, 1]})
    with pytest.raises(IncompatibleError, match="no_rope_layers must be a list, got 7"):
        normalised(family, {**sizes, "no_rope_layers": 7})


def test_every_mismatch_is_in_one_error(check: Check, tmp_path: Path) -> None:
    other = pico.write_pico(
        tmp_path / "other", num_hidden_layers=3, rms_norm_eps=1e-5, merges=pico.MERGES[::-1]
    )
    pico.edit_config(other, intermediate_size=99)
    reasons = refusal(check, other)
    assert len(reasons) == 5
    for part in ("num_hidden_layers", "rms_norm_eps", "vocabulary", "merges", "intermediate_size"):
        assert sum(part in reason for reason in reasons) == 1


def test_another_model_type_is_the_only_thing_said_of_the_configuration(check: Check, tmp_path: Path) -> None:
    reasons = refusal(check, pico.write_pico(tmp_path / "other", model_type="mistral"))
    assert reasons == ("model_type: seed has 'llama', expert has 'mistral'",)
    pico.edit_config(tmp_path / "other", model_type="mamba")
    with pytest.raises(UnsupportedFamilyError):
        check(tmp_path / "other")


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_experts_of_every_family_pass_and_their_ffn_width_may_differ(tmp_path: Path, model_type: str) -> None:
    check = checker(pico.write_pico(tmp_path / "seed", model_type=model_type))
    wide = pico.write_pico(tmp_path / "wide", model_type=model_type, seed=1, intermediate_size=80)
    assert check(wide).roles.ffn_width == 80


def test_an_expert_of_another_dtype_passes(check: Check, tmp_path: Path) -> None:
    assert check(pico.write_pico(tmp_path / "half", seed=3, dtype="bfloat16")).roles.dtype == "BF16"


def test_a_width_that_the_configuration_and_the_tensors_disagree_on_is_refused(
    check: Check, expert: Path
) -> None:
    pico.edit_config(expert, intermediate_size=64)
    assert refusal(check, expert) == ("config.json: intermediate_size is 64, but the tensors have 48",)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_custom_code_is_refused_and_never_executed(check: Check, expert: Path, file: str) -> None:
    ran = expert / "ran"
    (expert / "modeling_evil.py").write_text(f"open({str(ran)!r}, 'w')")
    edit_json(expert / file, lambda content: content.update(auto_map={"AutoModel": "modeling_evil.Evil"}))
    for refuse in (check, check_seed):
        with pytest.raises(UnsafeFileError, match="auto_map asks for custom code, which is never executed"):
            refuse(expert)
    assert not ran.exists()


def test_quantized_weights_are_refused_with_the_remedy(check: Check, expert: Path) -> None:
    pico.edit_config(expert, quantization_config={"quant_method": "gptq"})
    with pytest.raises(
        IncompatibleError, match=r"quantized \('gptq'\), expected float weights: .*dequantize\(\)"
    ):
        check(expert)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: t["model"]["vocab"].update({"th": 260, "the": 259}),
            "tokenizer vocabulary, first at 259: seed has ['259', 'th'], expert has ['259', 'the']",
        ),
        (
            lambda t: t["model"]["vocab"].update({"new": 267}),
            "tokenizer vocabulary, first at 267: seed has nothing, expert has ['267', 'new'] "
            "(267 and 268 entries)",
        ),
        (
            lambda t: t["model"]["merges"].reverse(),
            "tokenizer merges, first at 0: seed has ['t', 'h'], expert has ['r', 'e']",
        ),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "tokenizer normalizer"),
        (
            lambda t: t["pre_tokenizer"].update(add_prefix_space=True),
            "tokenizer pre_tokenizer.add_prefix_space: seed has nothing, expert has True",
        ),
        (
            lambda t: t["added_tokens"][0].update(lstrip=True),
            "tokenizer added tokens.'<s>.lstrip': seed has nothing, expert has True",
        ),
        (
            lambda t: t["added_tokens"].append({"id": 267, "content": "<|im_start|>", "special": True}),
            "tokenizer added tokens: the seed lacks '<|im_start|>': extend it by them with `nexusmix seed extend",
        ),
        (lambda t: t["model"].update(byte_fallback=True), "tokenizer model.byte_fallback"),
        (lambda t: t.update(decoder={"type": "Fuse"}), "tokenizer decoder"),
        (lambda t: t.update(model=7), "tokenizer vocabulary"),
    ],
)
def test_another_tokenizer_is_refused_naming_the_first_difference(
    check: Check, expert: Path, change: Callable[[Any], object], reason: str
) -> None:
    edit_json(expert / "tokenizer.json", change)
    assert reason in refusal(check, expert)[0]


@pytest.mark.parametrize(
    ("role", "token"), [("bos_token", "<|im_end|>"), ("eos_token", "<|im_end|>"), ("unk_token", "the")]
)
def test_other_special_tokens_are_refused_by_their_role(
    check: Check, expert: Path, role: str, token: str
) -> None:
    edit_json(expert / "tokenizer_config.json", lambda content: content.update({role: token}))
    (reason,) = refusal(check, expert)
    assert reason.startswith(f"special tokens: {role}: seed has") and reason.endswith(f"expert has '{token}'")


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
def test_a_tune_may_end_its_text_by_another_token_that_the_seed_knows(
    check: Check, expert: Path, role: str
) -> None:
    edit_json(expert / "tokenizer_config.json", lambda content: content.update({role: "<pad>"}))
    pico.edit_config(expert, **{f"{role}_id": [1, 2]})
    check(expert)


def test_a_tune_may_lack_a_special_token_of_the_seed(check: Check, expert: Path) -> None:
    edit_json(expert / "tokenizer.json", lambda tokenizer: tokenizer["added_tokens"].pop())
    check(expert)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_trained_length_matters_only_to_ropes_that_read_it(model_type: str) -> None:
    family = FAMILIES[model_type]
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    sizes |= {"vocab_size": 300, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    short, long = ({**sizes, "max_position_embeddings": length} for length in (512, 8192))
    assert config_mismatches(family, short, long) == []
    assert normalised(family, long)["max_position_embeddings"] == 8192  # exports read it
    for rope_type in ("dynamic", "yarn", "longrope", "llama3", "one_of_the_future"):
        rope = {"rope_parameters": {"rope_type": rope_type, "factor": 2.0, "rope_theta": 10000.0}}
        found = config_mismatches(family, {**short, **rope}, {**long, **rope})
        assert any("max_position_embeddings" in reason for reason in found), rope_type


def test_another_pad_token_passes_since_padding_never_reaches_the_function(
    check: Check, expert: Path
) -> None:
    edit_json(expert / "tokenizer_config.json", lambda content: content.update({"pad_token": "</s>"}))
    check(expert)


@pytest.mark.parametrize("part", ["vocabulary", "added", "role", "template"])
def test_token_ids_beyond_the_embedding_are_refused_with_both_numbers(expert: Path, part: str) -> None:
    rows = json.loads((expert / "config.json").read_text())["vocab_size"]

    def beyond(tokenizer: dict[str, Any]) -> None:
        if part == "vocabulary":
            tokenizer["model"]["vocab"]["<new>"] = rows
        else:
            tokenizer["added_tokens"].append({"id": rows, "content": "<new>", "special": part != "added"})

    settings = {"role": {"eos_token": "<new>"}, "template": {"chat_template": "<new>{{ messages }}"}}
    edit_json(expert / "tokenizer.json", beyond)
    edit_json(expert / "tokenizer_config.json", lambda content: content.update(settings.get(part, {})))
    with pytest.raises(
        IncompatibleError, match=f"token id {rows}, but the embedding has {rows} rows; remove"
    ):
        check_seed(expert)


def test_a_special_token_beyond_the_embedding_that_no_text_reaches_passes(expert: Path) -> None:
    rows = json.loads((expert / "config.json").read_text())["vocab_size"]
    image = {"id": rows, "content": "<image_soft_token>", "special": True}
    edit_json(expert / "tokenizer.json", lambda tokenizer: tokenizer["added_tokens"].append(image))
    check_seed(expert)


def test_a_folder_with_a_model_and_an_adapter_is_refused_with_a_way_out(check: Check, expert: Path) -> None:
    (expert / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(IncompatibleError, match=r"both a model .* and an adapter .*move adapter_config"):
        check(expert)


def test_no_mutation_of_a_folders_json_ends_outside_the_error_tree(check: Check, expert: Path) -> None:
    junk = [None, True, -1, 0, 10**400, 1e308, "", "x" * 1000, "\ud800", [], [[]], {}, {"a": {}}, [None]]
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        path = expert / file
        original = path.read_bytes()
        source = random.Random(file)
        for _ in range(400):
            content = json.loads(original)
            place = content
            while True:
                key = source.choice(list(place) if isinstance(place, dict) else range(len(place)))
                inner = place[key]
                if not isinstance(inner, dict | list) or not inner or source.random() < 0.4:
                    break
                place = inner
            place[key] = source.choice(junk)
            path.write_text(json.dumps(content))
            with contextlib.suppress(RegistryError):
                check_seed(expert)
            with contextlib.suppress(RegistryError):
                check(expert)
        for text in (b"[" * 200_000, b'{"a":' * 200_000, b"1" * 10_000, b"\xff", b""):
            path.write_bytes(text)
            with pytest.raises(RegistryError):
                check(expert)
        path.write_bytes(original)


def test_the_same_tokenizer_in_an_older_spelling_passes(check: Check, expert: Path) -> None:
    def older(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
        tokenizer["pre_tokenizer"].pop("use_regex")
        tokenizer["truncation"] = {
            "max_length": 512,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        }

    def as_objects(settings: dict[str, Any]) -> None:
        settings["bos_token"] = {"content": settings["bos_token"], "lstrip": False}
        settings["chat_template"] = "{{ messages }}"
        del settings["pad_token"]

    edit_json(expert / "tokenizer.json", older)
    edit_json(expert / "tokenizer_config.json", as_objects)
    check(expert)


def test_an_expert_or_seed_without_a_tokenizer_is_refused_with_the_remedy(check: Check, expert: Path) -> None:
    (expert / "tokenizer.json").unlink()
    (reason,) = refusal(check, expert)
    assert "the expert has none; copy the seed's" in reason
    with pytest.raises(InvalidInputError, match=r"no tokenizer\.json; write one"):
        check_seed(expert)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"model_type": "llama", "model_type": "qwen2"}', '{"a": NaN}']
)
def test_a_malformed_configuration_is_refused(check: Check, expert: Path, content: str) -> None:
    (expert / "config.json").write_text(content)
    with pytest.raises(UnsafeFileError, match=r"config\.json"):
        check(expert)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": [1]},
        {"rope_parameters": {"rope_type": ["x"]}},
        {"hidden_size": "32"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 10**12},
        {"tie_word_embeddings": "yes", "layer_types": 7},
    ],
)
def test_a_configuration_of_wrong_types_is_refused_without_a_traceback(
    check: Check, expert: Path, changes: dict[str, Any]
) -> None:
    pico.edit_config(expert, **changes)
    with pytest.raises(IncompatibleError):
        check(expert)


def test_a_tied_head_stored_twice_passes_only_if_both_copies_are_equal(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    seed = pico.write_pico(tmp_path / "seed", tie_word_embeddings=True)
    check = checker(seed)
    tensors = load_file(seed / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, seed / "model.safetensors")
    assert "lm_head.weight" not in check(seed).roles.trunk
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, seed / "model.safetensors")
    with pytest.raises(
        IncompatibleError, match=r"lm_head\.weight differs from the embedding; set it to false"
    ):
        check(seed)
