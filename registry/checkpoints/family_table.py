"""The families table: tensors, their roles and shapes, and default configuration of each model type.

To add a family, add a row. Names are templates in which {i} is the layer, as in the model's own `state_dict()`.
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


_LAYER = "model.layers.{i}."
_GATED_MLP = {
    _LAYER + "mlp.gate_proj.weight": "f h",
    _LAYER + "mlp.up_proj.weight": "f h",
    _LAYER + "mlp.down_proj.weight": "h f",
}
_GATED_MLP_BIASES = {
    _LAYER + "mlp.gate_proj.bias": "f if mlp_bias",
    _LAYER + "mlp.up_proj.bias": "f if mlp_bias",
    _LAYER + "mlp.down_proj.bias": "h if mlp_bias",
}
_ATTENTION = {
    _LAYER + "self_attn.q_proj.weight": "n*d h",
    _LAYER + "self_attn.k_proj.weight": "m*d h",
    _LAYER + "self_attn.v_proj.weight": "m*d h",
    _LAYER + "self_attn.o_proj.weight": "h n*d",
}
_ATTENTION_BIASES = {
    _LAYER + "self_attn.q_proj.bias": "n*d if attention_bias",
    _LAYER + "self_attn.k_proj.bias": "m*d if attention_bias",
    _LAYER + "self_attn.v_proj.bias": "m*d if attention_bias",
    _LAYER + "self_attn.o_proj.bias": "h if attention_bias",
}
_HEAD_NORMS = {_LAYER + "self_attn.q_norm.weight": "d", _LAYER + "self_attn.k_norm.weight": "d"}
_ENDS = {
    "model.embed_tokens.weight": "v h",
    "model.norm.weight": "h",
    "lm_head.weight": "v h unless tie_word_embeddings",
}


def _norms(*names: str) -> dict[str, str]:
    return {f"{_LAYER}{name}.weight": "h" for name in names}


_PRE_NORMS = _norms("input_layernorm", "post_attention_layernorm")
_SANDWICH_NORMS = {**_PRE_NORMS, **_norms("pre_feedforward_layernorm", "post_feedforward_layernorm")}

_LLAMA_DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_QWEN_DEFAULTS = {
    **_LLAMA_DEFAULTS,
    "bos_token_id": None,
    "eos_token_id": None,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_GEMMA_DEFAULTS = {
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
_COHERE_DEFAULTS = {
    "hidden_act": "silu",
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
    "bos_token_id": 5,
    "eos_token_id": 255001,
    "attention_bias": False,
}

_ROWS = (
    Family(
        "llama",
        ffn={**_GATED_MLP, **_GATED_MLP_BIASES},
        trunk={**_ENDS, **_ATTENTION, **_ATTENTION_BIASES, **_PRE_NORMS},
        defaults={
            **_LLAMA_DEFAULTS,
            "attention_bias": False,
            "mlp_bias": False,
            "max_position_embeddings": 2048,
        },
    ),
    Family(
        "mistral",
        ffn=_GATED_MLP,
        trunk={**_ENDS, **_ATTENTION, **_PRE_NORMS},
        defaults={
            **_LLAMA_DEFAULTS,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
            "max_position_embeddings": 131_072,
        },
    ),
    Family(
        "qwen2",
        ffn=_GATED_MLP,
        trunk={
            **_ENDS,
            **_ATTENTION,
            # Always present: Qwen2 has no `attention_bias` field, and its output projection has no bias.
            _LAYER + "self_attn.q_proj.bias": "n*d",
            _LAYER + "self_attn.k_proj.bias": "m*d",
            _LAYER + "self_attn.v_proj.bias": "m*d",
            **_PRE_NORMS,
        },
        defaults={**_QWEN_DEFAULTS, "max_position_embeddings": 32_768},
        windowed_by_depth=True,
    ),
    Family(
        "qwen3",
        ffn=_GATED_MLP,
        trunk={**_ENDS, **_ATTENTION, **_ATTENTION_BIASES, **_HEAD_NORMS, **_PRE_NORMS},
        defaults={
            **_QWEN_DEFAULTS,
            "attention_bias": False,
            "head_dim": 128,
            "max_position_embeddings": 32_768,
        },
        windowed_by_depth=True,
    ),
    Family(
        "olmo2",
        ffn=_GATED_MLP,
        trunk={
            **_ENDS,
            **_ATTENTION,
            **_ATTENTION_BIASES,
            _LAYER + "self_attn.q_norm.weight": "n*d",
            _LAYER + "self_attn.k_norm.weight": "m*d",
            **_norms("post_attention_layernorm", "post_feedforward_layernorm"),
        },
        defaults={
            **_LLAMA_DEFAULTS,
            "bos_token_id": None,
            "eos_token_id": 50279,
            "rms_norm_eps": 1e-5,
            "attention_bias": False,
            "max_position_embeddings": 2048,
        },
    ),
    Family(
        "gemma2",
        ffn=_GATED_MLP,
        trunk={**_ENDS, **_ATTENTION, **_ATTENTION_BIASES, **_SANDWICH_NORMS},
        defaults={
            **_GEMMA_DEFAULTS,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "max_position_embeddings": 8192,
        },
        unread=frozenset({"hidden_act"}),
        sliding_pattern=2,
    ),
    Family(
        "gemma3_text",
        ffn=_GATED_MLP,
        trunk={**_ENDS, **_ATTENTION, **_ATTENTION_BIASES, **_HEAD_NORMS, **_SANDWICH_NORMS},
        defaults={**_GEMMA_DEFAULTS, "max_position_embeddings": 131_072},
        unread=frozenset({"hidden_act"}),
        rope_theta=1_000_000.0,
        local_rope_theta=10_000.0,
        sliding_pattern=6,
    ),
    Family(
        "phi3",
        ffn={_LAYER + "mlp.gate_up_proj.weight": "2*f h", _LAYER + "mlp.down_proj.weight": "h f"},
        trunk={
            **_ENDS,
            _LAYER + "self_attn.qkv_proj.weight": "n*d+2*m*d h",
            _LAYER + "self_attn.o_proj.weight": "h n*d",
            **_PRE_NORMS,
        },
        defaults={
            **_LLAMA_DEFAULTS,
            "rms_norm_eps": 1e-5,
            "eos_token_id": 32000,
            "sliding_window": None,
            "original_max_position_embeddings": 4096,
            "max_position_embeddings": 4096,
        },
    ),
    Family(
        "gpt_neox",
        ffn={
            "gpt_neox.layers.{i}.mlp.dense_h_to_4h.weight": "f h",
            "gpt_neox.layers.{i}.mlp.dense_h_to_4h.bias": "f",
            "gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight": "h f",
            "gpt_neox.layers.{i}.mlp.dense_4h_to_h.bias": "h",
        },
        trunk={
            "gpt_neox.embed_in.weight": "v h",
            "gpt_neox.layers.{i}.input_layernorm.weight": "h",
            "gpt_neox.layers.{i}.input_layernorm.bias": "h",
            "gpt_neox.layers.{i}.post_attention_layernorm.weight": "h",
            "gpt_neox.layers.{i}.post_attention_layernorm.bias": "h",
            "gpt_neox.layers.{i}.attention.query_key_value.weight": "3*h h",
            "gpt_neox.layers.{i}.attention.query_key_value.bias": "3*h if attention_bias",
            "gpt_neox.layers.{i}.attention.dense.weight": "h h",
            "gpt_neox.layers.{i}.attention.dense.bias": "h if attention_bias",
            "gpt_neox.final_layer_norm.weight": "h",
            "gpt_neox.final_layer_norm.bias": "h",
            "lm_head.weight": "v h unless tie_word_embeddings",
        },
        defaults={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "attention_bias": True,
            "use_parallel_residual": True,
            "max_position_embeddings": 2048,
        },
        mlp_path="gpt_neox.layers.{i}.mlp",
        ignorable=(r".*\.rotary_emb\.inv_freq", r".*\.attention\.(masked_)?bias"),
        renamed={"embed_out.weight": "lm_head.weight"},
        # Multi-head attention only: the code reads neither field.
        unread=frozenset({"num_key_value_heads", "head_dim"}),
        rope_theta_name="rotary_emb_base",
        rotary_share=0.25,
        rotary_share_name="rotary_pct",
    ),
    Family(
        "cohere",
        ffn=_GATED_MLP,
        trunk={
            **_ENDS,
            **_ATTENTION,
            **_ATTENTION_BIASES,
            _LAYER + "self_attn.q_norm.weight": "n d if use_qk_norm",
            _LAYER + "self_attn.k_norm.weight": "m d if use_qk_norm",
            # One norm: attention and FFN read the same input and are added to the residual together.
            **_norms("input_layernorm"),
        },
        defaults={**_COHERE_DEFAULTS, "use_qk_norm": False, "max_position_embeddings": 8192},
        rope_theta=500_000.0,
    ),
    Family(
        "cohere2",
        ffn=_GATED_MLP,
        trunk={**_ENDS, **_ATTENTION, **_ATTENTION_BIASES, **_norms("input_layernorm")},
        defaults={**_COHERE_DEFAULTS, "sliding_window": 4096, "max_position_embeddings": 8192},
        sliding_pattern=4,
    ),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ROWS}
