"""Normalisation of configurations: fill in defaults, convert old spellings, and drop irrelevant fields.

Two configurations describe the same function if their normalised forms are equal, apart from the trained length
that `config_mismatches` drops for some rotary embeddings. Fields that cannot change the forward pass are listed by
name; every other field is compared, including unknown ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.checkpoints.families import dimensions, layer_count, positive
from registry.checkpoints.family import Family
from registry.checkpoints.safe_files import printable
from registry.errors import IncompatibleError

# Irrelevant fields, grouped by the reason why they cannot matter.
_IRRELEVANT_BECAUSE = {
    "names and provenance; the model type is compared first": """
        _name_or_path name_or_path model_name architectures transformers_version tokenizer_class license
        base_model unsloth_version unsloth_fixed _commit_hash model_type""",
    "storage and speed: blobs record their own dtype, every attention kernel computes the same function": """
        dtype torch_dtype use_cache cache_implementation torchscript use_bfloat16 attn_implementation
        _attn_implementation _attn_implementation_autoset _attn_implementation_internal pretraining_tp
        chunk_size_feed_forward use_flash_attn""",
    "training only": """
        attention_dropout hidden_dropout residual_dropout resid_pdrop embd_pdrop classifier_dropout dropout
        initializer_range gradient_checkpointing keys_to_ignore_at_inference""",
    "the outputs of a call, and heads that a causal language model does not have": """
        return_dict output_attentions output_hidden_states is_decoder is_encoder_decoder
        add_cross_attention tie_encoder_decoder cross_attention_hidden_size id2label label2id num_labels
        problem_type task_specific_params finetuning_task pruned_heads prefix sep_token_id
        decoder_start_token_id""",
    "sampling of text; newer versions keep these in generation_config.json": """
        max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
        temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
        encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
        return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
        exponential_decay_length_penalty suppress_tokens begin_suppress_tokens tf_legacy_loss""",
    "an expert's FFNs may have another width than the seed's; it is read from their tensors": """
        intermediate_size""",
    "selects the embedding row that gets no gradient; padding does not change the function": """
        pad_token_id""",
}
IRRELEVANT = frozenset(name for names in _IRRELEVANT_BECAUSE.values() for name in names.split())

# Spellings that `normalised` converts into rope_parameters, layer_types and sliding_window.
_ABSORBED = frozenset(
    {
        "rope_theta",
        "rope_scaling",
        "rope_local_base_freq",
        "rotary_emb_base",
        "rotary_pct",
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "max_window_layers",
        "use_sliding_window",
        "no_rope_layer_interval",
    }
)
# Compared as tokens (tokenizers.py, vocabulary.py): their numbers may differ.
_OF_TOKENIZERS = ("vocab_size", "bos_token_id", "eos_token_id")
_PLAIN_ROPES = ("default", "linear")
_SCALED_ROPES = ("llama3", "yarn", "longrope")


def normalised(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return only the fields that change the function, in one spelling and with the family's defaults.

    Raises IncompatibleError for missing or out-of-range sizes, and for rotary settings that are not an object.
    """
    sizes = dimensions(family, config)
    full = {**family.defaults, **config, "num_key_value_heads": sizes["m"], "head_dim": sizes["d"]}
    full["rope_parameters"] = _rope(family, full)
    if "use_sliding_window" in family.defaults and not full["use_sliding_window"]:
        full["sliding_window"] = None
    full["no_rope_layers"] = _rotated(full)
    full["layer_types"] = _layer_types(family, full)
    full["eos_token_id"] = _token_ids(full["eos_token_id"])
    # Null and false both mean causal attention.
    full["use_bidirectional_attention"] = full.get("use_bidirectional_attention") or False
    dropped = IRRELEVANT | _ABSORBED | family.unread
    if not full.get("quantization_config"):  # preflight refuses one with a content
        dropped |= {"quantization_config"}
    return {key: value for key, value in full.items() if key not in dropped and value is not None}


def config_mismatches(family: Family, seed: Mapping[str, Any], expert: Mapping[str, Any]) -> list[str]:
    """Return every mismatch that would change the function: field, seed's value and expert's value."""
    if seed.get("model_type") != expert.get("model_type"):
        return [_mismatch("model_type", seed.get("model_type"), expert.get("model_type"))]
    return [
        _mismatch(f"config.json: {field}", mine, theirs)
        for field, mine, theirs in differences(_compared(family, seed), _compared(family, expert))
    ]


def differences(seed: Any, expert: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return the differences of two JSON values as (dotted path, seed's value, expert's value); None means absent."""
    if isinstance(seed, dict) and isinstance(expert, dict):
        return [
            found
            for key in sorted(seed.keys() | expert.keys())
            for found in differences(seed.get(key), expert.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(seed, list) and isinstance(expert, list) and len(seed) == len(expert):
        return [
            found
            for place, (mine, theirs) in enumerate(zip(seed, expert, strict=True))
            for found in differences(mine, theirs, f"{path}[{place}]")
        ]
    # True == 1 in Python, but not in JSON; 10000 and 10000.0 are the same number in both.
    same = seed == expert and isinstance(seed, bool) == isinstance(expert, bool)
    return [] if same else [(path, seed, expert)]


def _mismatch(field: str, seed: object, expert: object) -> str:
    return f"{field}: seed has {shown(seed)}, expert has {shown(expert)}"


def shown(value: object) -> str:
    """Return a JSON value for a message: short, in ASCII."""
    return "nothing" if value is None else printable(value)


def _token_ids(value: Any) -> Any:
    """Unwrap a list of one end token: both spellings are in use."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _compared(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normalised configuration without fields that do not change the function of a known token.

    These are the number of rows, the tokens at the ends of a text, and the trained length if the rotary embedding
    ignores it. Exports need them, so the normalised form keeps them.
    """
    full = normalised(family, config)
    for name in _OF_TOKENIZERS:
        full.pop(name, None)
    if _ignores_length(full["rope_parameters"]):
        full.pop("max_position_embeddings", None)
    return full


def _ignores_length(rope: Mapping[str, Any]) -> bool:
    """Return whether no rotary embedding reads max_position_embeddings; default and linear ones do not."""
    kinds: list[Mapping[str, Any]] = [*_by_kind(rope).values()]
    return all(each.get("rope_type") in _PLAIN_ROPES for each in kinds or [rope])


def _by_kind(rope: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return rotary settings by attention type; {} if one setting applies to all layers."""
    return {
        kind: value for kind, value in rope.items() if kind.endswith("_attention") and isinstance(value, dict)
    }


def _layer_types(family: Family, full: Mapping[str, Any]) -> list[str] | None:
    """Return the attention type of each block; None if the family has a single type."""
    layers = layer_count(full)
    if full.get("layer_types") is not None:
        return full["layer_types"]
    if family.sliding_pattern is not None:
        pattern = positive(
            "sliding_window_pattern", full.get("sliding_window_pattern", family.sliding_pattern)
        )
        sliding = [bool((i + 1) % pattern) for i in range(layers)]
    elif full["no_rope_layers"] is not None:
        windowed = full["use_sliding_window"] and full["sliding_window"] is not None
        sliding = [windowed and not rotated for rotated in full["no_rope_layers"]]
    elif family.windowed_by_depth:
        windowed = full["sliding_window"] is not None
        first = positive("max_window_layers", full["max_window_layers"], least=0)
        sliding = [windowed and i >= first for i in range(layers)]
    else:
        return None
    return ["sliding_attention" if slides else "full_attention" for slides in sliding]


def _rotated(full: Mapping[str, Any]) -> list[int] | None:
    """Return 1 for each block with rotary embeddings and 0 for the others; None if no block lacks them.

    The field's name in config.json is `no_rope_layers`, although a 1 means that the layer has them.
    """
    given = full.get("no_rope_layers")
    if given is not None and not isinstance(given, list):
        raise IncompatibleError(f"config.json: no_rope_layers must be a list, got {printable(given)}")
    if given is not None or "no_rope_layer_interval" not in full:
        return given
    interval = positive("no_rope_layer_interval", full["no_rope_layer_interval"])
    return [int((i + 1) % interval != 0) for i in range(layer_count(full))]


def _rope(family: Family, full: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rope_parameters` in the form of transformers 5, also from version 4's `rope_theta` and `rope_scaling`."""
    given = full.get("rope_scaling") or full.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise IncompatibleError(f"config.json: rope_parameters must be an object, got {printable(given)}")
    nested = _by_kind(given)
    theta = full.get(family.rope_theta_name, full.get("rope_theta", family.rope_theta))
    if family.local_rope_theta is None:
        if nested:
            return {key: _one_rope(family, full, value, theta) for key, value in nested.items()}
        return _one_rope(family, full, given, theta)
    local = full.get("rope_local_base_freq", family.local_rope_theta)
    return {
        "full_attention": _one_rope(family, full, nested.get("full_attention", given), theta),
        "sliding_attention": _one_rope(family, full, nested.get("sliding_attention", {}), local),
    }


def _one_rope(
    family: Family, full: Mapping[str, Any], given: Mapping[str, Any], theta: float
) -> dict[str, Any]:
    share = full.get(family.rotary_share_name, full.get("partial_rotary_factor", family.rotary_share))
    rope = {"rope_theta": theta, "partial_rotary_factor": share, **given}
    rope["rope_type"] = rope.pop("rope_type", None) or given.get("type") or "default"
    rope.pop("type", None)
    if family.model_type == "phi3" and rope["rope_type"] in ("su", "yarn"):
        rope["rope_type"] = "longrope"  # its names in older checkpoints
    if rope["rope_type"] in _SCALED_ROPES:
        outside = full.get("original_max_position_embeddings")
        rope.setdefault("original_max_position_embeddings", full.get("max_position_embeddings"))
        if outside is not None:
            rope["original_max_position_embeddings"] = outside
    return {key: value for key, value in rope.items() if value is not None}
