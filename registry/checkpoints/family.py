"""A model family: its tensors, their roles and shapes, and its default configuration; and parts that many share.

Names are templates in which {i} is the layer, as in the model's own `state_dict()`.
A shape is written in symbols, with an optional condition on the configuration:

    "n*d h"                    num_attention_heads · head_dim rows, hidden_size columns
    "2*f h"                    gate and up projection in one tensor
    "h if attention_bias"      only where that field is true
    "v h unless tie_word_embeddings"

    f FFN width (read from the tensors) · h hidden_size · v vocab_size
    n num_attention_heads · m num_key_value_heads · d head_dim
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One model type. `ffn` and `trunk` map name templates to shapes; `defaults` apply to absent fields."""

    model_type: str
    ffn: Mapping[str, str]
    trunk: Mapping[str, str]
    defaults: Mapping[str, Any]
    mlp_path: str = "model.layers.{i}.mlp"
    # Buffers in old checkpoints that no model reads, as regular expressions for the whole name.
    ignorable: tuple[str, ...] = (r".*\.rotary_emb\.inv_freq",)
    # Names on disk that transformers renames when it loads them.
    renamed: Mapping[str, str] = field(default_factory=dict)
    # Fields that other families' code reads, but this family's does not.
    unread: frozenset[str] = frozenset()
    # Base and rotated share of the rotary embedding, and their names in older configurations.
    rope_theta: float = 10_000.0
    rope_theta_name: str = "rope_theta"
    rotary_share: float = 1.0
    rotary_share_name: str = "partial_rotary_factor"
    # Separate rotary base of sliding layers (Gemma 3); None: one base for all layers.
    local_rope_theta: float | None = None
    # Layers with a sliding window: every layer except each k-th, none, or as given by `max_window_layers`.
    sliding_pattern: int | None = None
    windowed_by_depth: bool = False


LAYER = "model.layers.{i}."
GATED_MLP = {
    LAYER + "mlp.gate_proj.weight": "f h",
    LAYER + "mlp.up_proj.weight": "f h",
    LAYER + "mlp.down_proj.weight": "h f",
}
FUSED_MLP = {LAYER + "mlp.gate_up_proj.weight": "2*f h", LAYER + "mlp.down_proj.weight": "h f"}
GATED_MLP_BIASES = {
    LAYER + "mlp.gate_proj.bias": "f if mlp_bias",
    LAYER + "mlp.up_proj.bias": "f if mlp_bias",
    LAYER + "mlp.down_proj.bias": "h if mlp_bias",
}
ATTENTION = {
    LAYER + "self_attn.q_proj.weight": "n*d h",
    LAYER + "self_attn.k_proj.weight": "m*d h",
    LAYER + "self_attn.v_proj.weight": "m*d h",
    LAYER + "self_attn.o_proj.weight": "h n*d",
}
QKV_BIASES = {
    LAYER + "self_attn.q_proj.bias": "n*d if attention_bias",
    LAYER + "self_attn.k_proj.bias": "m*d if attention_bias",
    LAYER + "self_attn.v_proj.bias": "m*d if attention_bias",
}
ATTENTION_BIASES = {**QKV_BIASES, LAYER + "self_attn.o_proj.bias": "h if attention_bias"}
HEAD_NORMS = {LAYER + "self_attn.q_norm.weight": "d", LAYER + "self_attn.k_norm.weight": "d"}
ENDS = {
    "model.embed_tokens.weight": "v h",
    "model.norm.weight": "h",
    "lm_head.weight": "v h unless tie_word_embeddings",
}


def norms(*names: str) -> dict[str, str]:
    """Return RMSNorms or LayerNorms over the model's width, by their names in a layer."""
    return {f"{LAYER}{name}.weight": "h" for name in names}


PRE_NORMS = norms("input_layernorm", "post_attention_layernorm")
SANDWICH_NORMS = {**PRE_NORMS, **norms("pre_feedforward_layernorm", "post_feedforward_layernorm")}

LLAMA_DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NO_BIASES = {"attention_bias": False, "mlp_bias": False}
QWEN_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "bos_token_id": None,
    "eos_token_id": None,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
GEMMA_DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "attention_bias": False,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "use_bidirectional_attention": False,
}
COHERE_DEFAULTS = {
    "hidden_act": "silu",
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
    "bos_token_id": 5,
    "eos_token_id": 255001,
    "attention_bias": False,
}
OLMO_TRUNK = {
    **ENDS,
    **ATTENTION,
    **ATTENTION_BIASES,
    LAYER + "self_attn.q_norm.weight": "n*d",
    LAYER + "self_attn.k_norm.weight": "m*d",
    **norms("post_attention_layernorm", "post_feedforward_layernorm"),
}
OLMO_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "bos_token_id": None,
    "eos_token_id": 50279,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "max_position_embeddings": 2048,
}
