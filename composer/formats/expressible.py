"""Whether a stock mixture-of-experts architecture can express a mix of a given family; else the reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from composer.errors import ExportError
from composer.mix.opening import Manifest
from composer.variants import ROUTERS
from registry.checkpoints.configs import normalised
from registry.checkpoints.families import family_of

# The stock architecture of each family, by its `--format`.
FORMATS: Mapping[str, str] = {
    "granite": "qwen2_moe",
    "llama": "qwen2_moe",
    "ministral": "qwen2_moe",
    "mistral": "qwen2_moe",
    "qwen2": "qwen2_moe",
    "qwen3": "qwen3_next",
}
NAMES: Mapping[str, str] = {"qwen2_moe": "Qwen2-MoE", "qwen3_next": "Qwen3-Next"}
NORMS_AFTER = "it also normalises the outputs of attention and FFN"
NO_NORMS_BEFORE = "it normalises the outputs of attention and FFN instead of their inputs"
PARALLEL = "its attention and FFN read the same LayerNorm"
# Why no stock architecture expresses a mix of these families.
UNLIKE: Mapping[str, str] = {
    "arcee": "its FFN has no gate projection",
    "cohere": PARALLEL,
    "cohere2": PARALLEL,
    "ernie4_5": "it rotates pairs of neighbouring channels",
    "exaone4": NO_NORMS_BEFORE,
    "gemma2": NORMS_AFTER,
    "gemma3_text": NORMS_AFTER,
    "glm4": NORMS_AFTER,
    "gpt_neox": "its FFN has no gate projection",
    "hunyuan_v1_dense": "it normalises queries and keys after rotating them",
    "ministral3": "it scales queries by their position",
    "olmo2": NO_NORMS_BEFORE,
    "olmo3": NO_NORMS_BEFORE,
    "phi3": "its checkpoints store query, key and value in one matrix",
    "seed_oss": "its attention is twice as wide as the model",
    "smollm3": "a part of its blocks has no rotary embedding",
}
# Rotary embeddings that transformers computes with the same functions for these models, in versions 4.57 and 5.
ROPES = ("default", "linear", "dynamic", "yarn", "llama3")
MOST_PADDING = 1.25  # a padded model is at most this many times as wide as the seed


def refuse_routing(manifest: Manifest) -> None:
    """Raise ExportError, with a remedy, for routing that no stock architecture has."""
    if manifest.routed_trunk:
        experts = ",".join(member.expert.ref for member in manifest.members)
        raise ExportError(
            "this mix consists of whole experts: each token uses its own expert's attention, which no stock "
            "architecture can express; use --format nexus, or export a mix of the same experts with one trunk: "
            f"nexusmix compose NAME --seed {manifest.seed.name} --experts {experts} --preset merged"
        )
    if manifest.top_p is not None:
        raise ExportError(
            f"stock architectures use the same number of experts for every token, but this mix uses top-p routing "
            f"(top_p = {manifest.top_p}); use --format nexus, or compose the mix with top_k"
        )
    if reason := ROUTERS[manifest.router_kind].not_linear:
        raise ExportError(
            f"the gate of a stock architecture is linear in a block's input, but the {manifest.router_kind} router "
            f"{reason}; use --format nexus"
        )


def expressible(raw: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return the seed's configuration with all defaults. Raises ExportError with every setting that does not fit.

    `target` is a format name of a stock architecture.
    """
    model_type, name = str(raw.get("model_type")), NAMES[target]
    found = FORMATS.get(model_type)
    if found != target:
        reason = UNLIKE.get(
            model_type, f"it is written in the architecture {NAMES[found]}" if found else "unknown"
        )
        raise ExportError(
            f"a {model_type} mix cannot be a {name} model: {reason}; use --format {found or 'nexus'}"
        )
    config = normalised(family_of(raw), raw)
    reasons = [*_attention_reasons(model_type, config, name), *_rope_reasons(config, name)]
    if model_type in ("granite", "llama") and config["mlp_bias"]:
        reasons.append(f"mlp_bias is true, but {name} has no biases in its FFNs")
    if reasons:
        raise ExportError(
            f"{name} cannot express this {model_type} mix: {'; '.join(reasons)}; use --format nexus"
        )
    return config


def _attention_reasons(model_type: str, config: Mapping[str, Any], name: str) -> list[str]:
    reasons = []
    if model_type in ("granite", "llama") and config["attention_bias"]:
        reasons.append(f"attention_bias is true, but {name} has no bias in the output projection")
    width = config["head_dim"] * config["num_attention_heads"]
    if FORMATS[model_type] == "qwen2_moe" and width > MOST_PADDING * config["hidden_size"]:
        reasons.append(
            f"head_dim is {config['head_dim']}, but {name} computes it as hidden_size / heads = "
            f"{config['hidden_size']} / {config['num_attention_heads']}"
        )
    if config["use_bidirectional_attention"]:
        reasons.append(f"attention is bidirectional, but {name}'s is causal")
    window = _window(model_type, config)
    if window < config["max_position_embeddings"]:
        reasons.append(
            f"attention uses a sliding window of {window} tokens, which readers of {name} treat differently"
        )
    return reasons


def _rope_reasons(config: Mapping[str, Any], name: str) -> list[str]:
    rope = config["rope_parameters"]
    reasons = []
    if rope["rope_type"] not in ROPES:
        reasons.append(f"the rotary embedding is {rope['rope_type']}, expected one of {', '.join(ROPES)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        reasons.append(f"rotary embeddings cover only a part of each head, but {name} rotates whole heads")
    return reasons


def _window(model_type: str, config: Mapping[str, Any]) -> float:
    """Return the smallest attention window of any block in tokens; infinite for families that ignore the setting."""
    layers = config.get("layer_types", ["sliding_attention"])
    windowed = model_type not in ("granite", "llama") and "sliding_attention" in layers
    return config.get("sliding_window", math.inf) if windowed else math.inf
