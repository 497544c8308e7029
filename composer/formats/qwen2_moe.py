"""Format `qwen2_moe`: a mix expressed exactly in the stock Qwen2-MoE architecture, for seeds of Llama's shape.

Qwen2-MoE computes  y = sigmoid(g · x) · S(x) + Σ_top p_i · R_i(x),  where p is the softmax over all routed experts.
The Nexus router's expert embeddings do not depend on x, so the router is a linear gate. With g = 1e-20 the sigmoid
is ½ in every float type. S is E_0 with its down projection doubled, so the first term is E_0(x). Then

    additive:  R_i = E_i
    convex:    R_i = E_i − E_0, one gated FFN of both widths: gates [E_i; E_0], ups [E_i; E_0], downs [E_i, −E_0],
               since (1 − Σ_top p_i) · E_0 + Σ_top p_i · E_i = E_0 + Σ_top p_i · (E_i − E_0)

A null expert becomes an expert whose weights are all zero. Context that gates read becomes attention heads
(context_heads.py), which make the model wider. expressible.py lists the mixes that cannot be expressed.

Each expert is stored separately (`experts.3.gate_proj.weight`), as all readers of Qwen2-MoE expect. A tied output
head is stored as a copy of the embeddings, because llama.cpp does not support a tied Qwen2-MoE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from composer.errors import ExportError
from composer.formats.context_heads import context_heads
from composer.formats.expressible import expressible, refuse_routing
from composer.formats.gates import directions, gates
from composer.formats.padding import padded, whole_blocks
from composer.formats.plan import Format, Plan, small_files
from composer.mix.merged_parts import merged_parts
from composer.mix.opening import Manifest, seed_config
from composer.tensors.rows import Below, Beside, Given, Rows, Zeros, scaled
from registry.blobs import BlobStore
from registry.checkpoints.dtypes import DTYPE_NAMES
from registry.checkpoints.families import layer_count

NAME = "qwen2_moe"
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ATTENTION = "model.layers.{i}.self_attn."
MLP = "model.layers.{i}.mlp."
GATE = "mlp.gate.weight"
SHARED_GATE = "shared_expert_gate.weight"
# llama.cpp computes sigmoid(z) as silu(z) / z, which is 0/0 for a gate of 0. This gate is so small that sigmoid(z)
# is exactly ½ in every float type, and large enough to be nonzero in float32 and bfloat16.
NEARLY_ZERO = 1e-20

Tensors = Mapping[str, Rows]


def plan(blobs: BlobStore, manifest: Manifest, dtype: str, target: str = NAME) -> Plan:
    """Plan the Qwen2-MoE folder. Raises ExportError with the reasons if Qwen2-MoE cannot express the mix.

    For another `target`, the plan has that format's families and is not padded.
    """
    refuse_routing(manifest)
    raw = seed_config(blobs, manifest.seed)
    config = expressible(raw, target)
    trunk, shared, *experts = merged_parts(blobs, manifest).values()
    convex = manifest.combine == "convex"
    ffns = [[expert, shared] if convex else [expert] for expert in experts]
    width = whole_blocks(max(sum(_width(part) for part in parts) for parts in ffns))
    shared_width, scales = whole_blocks(_width(shared)), _Scales.of(config)
    factors = [scales.residual, -scales.residual] if convex else [scales.residual]
    tensors = _trunk(trunk, config, scales)
    for layer in range(layer_count(config)):
        mlp = MLP.format(i=layer)
        tensors[mlp + SHARED_GATE] = Given(np.full((1, config["hidden_size"]), NEARLY_ZERO, np.float32))
        tensors |= _joined(f"{mlp}shared_expert.", mlp, [shared], [2 * scales.residual], shared_width)
        for j, parts in enumerate(ffns):
            tensors |= _joined(f"{mlp}experts.{j}.", mlp, parts, factors, width)
        for j in range(len(ffns), len(ffns) + manifest.null_experts):
            tensors |= _null(f"{mlp}experts.{j}.", config["hidden_size"], width)
    stock = _config(raw, config, manifest, dtype, shared_width, width)
    if target == NAME:
        tensors, stock = padded(tensors, stock)
    elif directions(blobs, manifest):
        raise ExportError(
            f"the gates of this mix read context, which becomes attention heads in {NAME} only, not in {target}; "
            "use --format nexus"
        )
    tensors, stock = _gated(blobs, manifest, tensors, stock, config["hidden_size"])
    return Plan(
        config=stock,
        tensors=tensors,
        dtype=dtype,
        # A router's choice is discrete. And float16 has no number between 0 and 6e-8.
        float32=frozenset(n for n in tensors if n.endswith((GATE, *[SHARED_GATE] * (dtype == "F16")))),
        files=small_files(blobs, manifest),
    )


def _gated(
    blobs: BlobStore, manifest: Manifest, plain: dict[str, Rows], config: dict[str, Any], hidden: int
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Add the gates [P, H′], and the heads for the context that they read, to a model padded from `hidden` to H′."""
    more = config["hidden_size"] - hidden
    contexts = [np.pad(block_NH, ((0, 0), (0, more))) for block_NH in directions(blobs, manifest)]
    heads = context_heads(contexts, config, unpadded=hidden)
    tensors, stock = (heads.tensors(plain), heads.config(config)) if heads else (plain, config)
    for layer, rows in enumerate(gates(blobs, manifest)):
        gate = np.concatenate([np.pad(rows[:, :hidden], ((0, 0), (0, more))), rows[:, hidden:]], axis=1)
        tensors[f"{MLP.format(i=layer)}gate.weight"] = Given(heads.gate(gate, layer) if heads else gate)
    return tensors, stock


@dataclass(frozen=True)
class _Scales:
    """Granite's constant factors, which are folded into the weights; 1 for all other families."""

    embeddings: float = 1
    queries: float = 1
    residual: float = 1
    head: float = 1

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Scales:
        """Return the factors of a configuration with all defaults."""
        if "residual_multiplier" not in config:
            return cls()
        return cls(
            embeddings=config["embedding_multiplier"],
            queries=config["attention_multiplier"] * math.sqrt(config["head_dim"]),
            residual=config["residual_multiplier"],
            head=1 / config["logits_scaling"],
        )

    def of_tensor(self, name: str) -> float:
        """Return the factor of one of the trunk's tensors."""
        part = name.split(".")[-2]
        parts = {"embed_tokens": self.embeddings, "q_proj": self.queries, "o_proj": self.residual}
        return {**parts, "lm_head": self.head}.get(part, 1)


def _trunk(stored: Tensors, config: Mapping[str, Any], scales: _Scales) -> dict[str, Rows]:
    """Return the trunk's tensors. A tied head becomes a copy; missing biases of q, k and v become zeros."""
    heads = {HEAD: stored[EMBEDDINGS]} if config["tie_word_embeddings"] else {}
    tensors: dict[str, Rows] = {
        name: scaled(tensor, scales.of_tensor(name)) for name, tensor in {**stored, **heads}.items()
    }
    for layer in range(layer_count(config)):
        for part in ("q_proj", "k_proj", "v_proj"):
            name = ATTENTION.format(i=layer) + part
            tensors.setdefault(f"{name}.bias", Zeros(stored[f"{name}.weight"].shape[0]))
    return tensors


def _width(ffn: Tensors) -> int:
    return ffn[MLP.format(i=0) + "gate_proj.weight"].shape[0]


def _joined(
    prefix: str, mlp: str, parts: list[Tensors], factors: Sequence[float], width: int
) -> dict[str, Rows]:
    """Return one FFN that computes Σ factor · FFN over `parts`, padded to `width` with units that output zero."""
    pad = width - sum(_width(part) for part in parts)
    tensors: dict[str, Rows] = {}
    for projection in ("gate_proj", "up_proj"):
        rows = [part[f"{mlp}{projection}.weight"] for part in parts]
        hidden = rows[0].shape[1]
        tensors[f"{prefix}{projection}.weight"] = Below([*rows, Zeros(pad, hidden)] if pad else rows)
    columns: list[Rows] = [
        scaled(part[f"{mlp}down_proj.weight"], factor) for part, factor in zip(parts, factors, strict=True)
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
