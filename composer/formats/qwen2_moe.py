"""Format `qwen2_moe`: a mix expressed exactly in the stock Qwen2-MoE architecture, for seeds of Llama's shape.

Qwen2-MoE computes  y = sigmoid(g · x) · S(x) + Σ_top p_i · R_i(x),  where p is the softmax over all routed experts.
The Nexus router's expert embeddings do not depend on x, so the router is a linear gate. With g = 1e-20 the sigmoid
is ½ in every float type. S is E_0 with its down projection doubled, so the first term is E_0(x). Then

    additive:  R_i = E_i
    convex:    R_i = E_i − E_0, one gated FFN of both widths: gates [E_i; E_0], ups [E_i; E_0], downs [E_i, −E_0],
               since (1 − Σ_top p_i) · E_0 + Σ_top p_i · E_i = E_0 + Σ_top p_i · (E_i − E_0)

A null expert becomes an expert whose weights are all zero. Context that gates read becomes attention heads
(context_heads.py), which make the model wider. Two settings cannot be expressed: top-p, whose number of
experts depends on the token, and a router that is not linear in x.

Each expert is stored separately (`experts.3.gate_proj.weight`), as all readers of Qwen2-MoE expect. A tied output
head is stored as a copy of the embeddings, because llama.cpp does not support a tied Qwen2-MoE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from composer.errors import ExportError
from composer.formats.context_heads import context_heads
from composer.formats.gates import directions, gates
from composer.formats.plan import Format, Plan, small_files
from composer.formats.rows import Below, Beside, Given, Rows, Stored, Zeros
from composer.mix.opening import Manifest, seed_config
from composer.tensors.dtypes import DTYPE_NAMES
from composer.tensors.stream import stored_tensors
from composer.variants import ROUTERS
from registry.blobs import BlobStore
from registry.checkpoints.configs import normalised
from registry.checkpoints.families import family_of, layer_count
from registry.checkpoints.tensors import TensorInfo

FAMILIES = ("llama", "mistral", "qwen2")
# Rotary embeddings that transformers computes with the same functions for Qwen2-MoE, in versions 4.57 and 5.
ROPES = ("default", "linear", "dynamic", "yarn", "llama3")
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ATTENTION = "model.layers.{i}.self_attn."
MLP = "model.layers.{i}.mlp."
SHARED_GATE = "shared_expert_gate.weight"
# llama.cpp computes sigmoid(z) as silu(z) / z, which is 0/0 for a gate of 0. This gate is so small that sigmoid(z)
# is exactly ½ in every float type, and large enough to be nonzero in float32 and bfloat16.
NEARLY_ZERO = 1e-20

Infos = Mapping[str, TensorInfo]


def plan(blobs: BlobStore, manifest: Manifest, dtype: str) -> Plan:
    """Plan the Qwen2-MoE folder. Raises ExportError with the reasons if Qwen2-MoE cannot express the mix."""
    if manifest.routed_trunk:
        raise ExportError(
            "no stock architecture sends a token through its own expert's attention, as this mix's routed trunk does; "
            "use --format nexus, or compose it with another trunk merge"
        )
    if manifest.top_p is not None:
        raise ExportError(
            f"Qwen2-MoE uses the same number of experts for every token, but this mix uses top-p routing "
            f"(top_p = {manifest.top_p}); use --format nexus, or compose the mix with top_k"
        )
    if reason := ROUTERS[manifest.router_kind].not_linear:
        raise ExportError(
            f"Qwen2-MoE's gate is linear in a block's input, but the {manifest.router_kind} router "
            f"{reason}; use --format nexus"
        )
    raw = seed_config(blobs, manifest.seed)
    config = _expressible(raw)
    shared = stored_tensors(blobs, manifest.shared)
    experts = [stored_tensors(blobs, member.ffn) for member in manifest.members]
    convex = manifest.combine == "convex"
    ffns = [[infos, shared] if convex else [infos] for infos in experts]
    widths = [sum(_width(part) for part in parts) for parts in ffns]
    tensors = _trunk(stored_tensors(blobs, manifest.trunk), config)
    for layer in range(layer_count(config)):
        mlp = MLP.format(i=layer)
        tensors[mlp + SHARED_GATE] = Given(np.full((1, config["hidden_size"]), NEARLY_ZERO, np.float32))
        tensors |= _joined(f"{mlp}shared_expert.", mlp, [shared], [2], _width(shared))
        for j, parts in enumerate(ffns):
            tensors |= _joined(f"{mlp}experts.{j}.", mlp, parts, [1, -1][: len(parts)], max(widths))
        for j in range(len(ffns), len(ffns) + manifest.null_experts):
            tensors |= _null(f"{mlp}experts.{j}.", config["hidden_size"], max(widths))
    stock = _config(raw, config, manifest, dtype, _width(shared), max(widths))
    gate_of = dict(enumerate(gates(blobs, manifest)))
    if heads := context_heads(directions(blobs, manifest), stock):
        tensors, stock = heads.tensors(tensors), heads.config(stock)
        gate_of = {layer: heads.gate(gate, layer) for layer, gate in gate_of.items()}
    tensors |= {f"{MLP.format(i=layer)}gate.weight": Given(gate) for layer, gate in gate_of.items()}
    return Plan(
        config=stock,
        tensors=tensors,
        dtype=dtype,
        # float16 has no number between 0 and 6e-8.
        float32=frozenset(n for n in tensors if n.endswith(SHARED_GATE)) if dtype == "F16" else frozenset(),
        files=small_files(blobs, manifest),
    )


def _expressible(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seed's configuration with all defaults. Raises ExportError with every setting that does not fit."""
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise ExportError(
            f"a {model_type} mix cannot be a Qwen2-MoE model: its blocks differ from those of "
            f"{', '.join(FAMILIES)}; use --format nexus"
        )
    config = normalised(family_of(raw), raw)
    rope, heads = config["rope_parameters"], config["num_attention_heads"]
    reasons = []
    if model_type == "llama" and config["attention_bias"]:
        reasons.append("attention_bias is true, but Qwen2-MoE has no bias in the output projection")
    if model_type == "llama" and config["mlp_bias"]:
        reasons.append("mlp_bias is true, but Qwen2-MoE has no biases in its FFNs")
    if config["head_dim"] * heads != config["hidden_size"]:
        reasons.append(
            f"head_dim is {config['head_dim']}, but Qwen2-MoE computes it as hidden_size / heads = "
            f"{config['hidden_size']} / {heads}"
        )
    if rope["rope_type"] not in ROPES:
        reasons.append(f"the rotary embedding is {rope['rope_type']}, expected one of {', '.join(ROPES)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        reasons.append("rotary embeddings cover only a part of each head, but Qwen2-MoE rotates whole heads")
    if config["use_bidirectional_attention"]:
        reasons.append("attention is bidirectional, but Qwen2-MoE's is causal")
    window = _window(model_type, config)
    if window < config["max_position_embeddings"]:
        reasons.append(
            f"attention uses a sliding window of {window} tokens, which readers of Qwen2-MoE treat differently"
        )
    if reasons:
        raise ExportError(
            f"Qwen2-MoE cannot express this {model_type} mix: {'; '.join(reasons)}; use --format nexus"
        )
    return config


def _window(model_type: str, config: Mapping[str, Any]) -> float:
    """Return the smallest attention window of any block in tokens; infinite for Llama, which ignores the setting."""
    layers = config.get("layer_types", ["sliding_attention"])
    windowed = model_type != "llama" and "sliding_attention" in layers
    return config.get("sliding_window", math.inf) if windowed else math.inf


def _trunk(stored: Infos, config: Mapping[str, Any]) -> dict[str, Rows]:
    """Return the trunk's tensors. A tied head becomes a copy; missing biases of q, k and v become zeros."""
    tensors: dict[str, Rows] = {name: Stored(info) for name, info in stored.items()}
    if config["tie_word_embeddings"]:
        tensors[HEAD] = tensors[EMBEDDINGS]
    for layer in range(layer_count(config)):
        for part in ("q_proj", "k_proj", "v_proj"):
            name = ATTENTION.format(i=layer) + part
            tensors.setdefault(f"{name}.bias", Zeros(stored[f"{name}.weight"].shape[0]))
    return tensors


def _width(ffn: Infos) -> int:
    return ffn[MLP.format(i=0) + "gate_proj.weight"].shape[0]


def _joined(
    prefix: str, mlp: str, parts: list[Infos], factors: Sequence[float], width: int
) -> dict[str, Rows]:
    """Return one FFN that computes Σ factor · FFN over `parts`, padded to `width` with units that output zero."""
    pad = width - sum(_width(part) for part in parts)
    tensors: dict[str, Rows] = {}
    for projection in ("gate_proj", "up_proj"):
        rows: list[Rows] = [Stored(part[f"{mlp}{projection}.weight"]) for part in parts]
        hidden = rows[0].shape[1]
        tensors[f"{prefix}{projection}.weight"] = Below([*rows, Zeros(pad, hidden)] if pad else rows)
    columns: list[Rows] = [
        Stored(part[f"{mlp}down_proj.weight"], factor) for part, factor in zip(parts, factors, strict=True)
    ]
    tensors[f"{prefix}down_proj.weight"] = Beside([*columns, Zeros(hidden, pad)] if pad else columns)
    return tensors


def _null(prefix: str, hidden: int, width: int) -> dict[str, Rows]:
    """Return an FFN that outputs zero."""
    shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    return {f"{prefix}{name}.weight": Zeros(*shape) for name, shape in shapes.items()}


def _config(
    raw: Mapping[str, Any],
    config: Mapping[str, Any],
    manifest: Manifest,
    dtype: str,
    shared_width: int,
    expert_width: int,
) -> dict[str, Any]:
    """Return config.json with the keys that old and new readers share (rope_theta, rope_scaling, torch_dtype)."""
    copied = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "rms_norm_eps",
    )
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    rope = dict(config["rope_parameters"])
    theta = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        **{name: config[name] for name in copied},
        **{name: raw.get(name, config.get(name)) for name in tokens},
        "tie_word_embeddings": False,
        "rope_theta": theta,
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
        "use_sliding_window": False,
        "intermediate_size": shared_width,
        "shared_expert_intermediate_size": shared_width,
        "moe_intermediate_size": expert_width,
        "num_experts": len(manifest.members) + manifest.null_experts,
        "num_experts_per_tok": manifest.top_k,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "qkv_bias": True,
        "router_aux_loss_coef": manifest.load_balance,
        "output_router_logits": False,
        "torch_dtype": DTYPE_NAMES[dtype],
    }


FORMAT = Format(plan)
