"""A mix with Llama 3's rotary embedding for llama.cpp, in its architecture Step-3.5; a part of format `gguf`.

Llama 3 divides the frequencies θ_j of the rotary embedding by factors f_j, and llama.cpp reads them from the tensor
`rope_freqs.weight`. Its Qwen2-MoE does not read this tensor. Its Step-3.5 does, and with the right metadata it computes
y = S(x) + Σ_top p_i · R_i(x), as in qwen2_moe.py. The shared expert S has no gate, and q, k and v have no biases.

Step-3.5 requires a block with a sliding window, in which it does not read the factors. So one more block has it: its
weights are zeros, so it adds zero, and its sizes are minimal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from composer.errors import ExportError
from composer.formats import qwen2_moe
from composer.formats.plan import Plan
from composer.tensors.rows import Given, Rows, Scaled, Zeros

NAME = "step35"
ROPE = "llama3"
FACTORS = "rope_freqs.weight"
WIDTH = 32  # of the last block's FFN


def converted(stock: Plan, *, biased: bool) -> Plan:
    """Convert a plan of qwen2_moe.py. Raises ExportError if the attention is `biased`."""
    if biased:
        raise ExportError(
            f"llama.cpp reads the rotary embedding {ROPE} in architectures without biases of queries, keys and values "
            f"only, but this mix has them; use --format {qwen2_moe.NAME}"
        )
    left_out = (qwen2_moe.SHARED_GATE, "q_proj.bias", "k_proj.bias", "v_proj.bias")
    tensors: dict[str, Rows] = {
        name: Scaled(rows, 0.5) if name.endswith("shared_expert.down_proj.weight") else rows
        for name, rows in stock.tensors.items()
        if not name.endswith(left_out)
    }
    layers, hidden, heads = (
        stock.config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    head_dim = hidden // heads
    tensors |= _last_block(layers, hidden, head_dim)
    tensors[FACTORS] = Given(factors(stock.config["rope_theta"], stock.config["rope_scaling"], head_dim))
    config = {
        **stock.config,
        "model_type": NAME,
        "head_dim": head_dim,
        "rope_scaling": None,
        "num_hidden_layers": layers + 1,
        "num_attention_heads": [heads] * layers + [1],
        "num_key_value_heads": [stock.config["num_key_value_heads"]] * layers + [1],
        "intermediate_size": WIDTH,
    }
    return dataclasses.replace(stock, config=config, tensors=tensors)


def _last_block(index: int, hidden: int, head_dim: int) -> dict[str, Rows]:
    """Return the block with a sliding window, with one head and a dense FFN, that adds zero."""
    shapes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (head_dim, hidden),
        "self_attn.k_proj": (head_dim, hidden),
        "self_attn.v_proj": (head_dim, hidden),
        "self_attn.o_proj": (hidden, head_dim),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (WIDTH, hidden),
        "mlp.up_proj": (WIDTH, hidden),
        "mlp.down_proj": (hidden, WIDTH),
    }
    return {f"model.layers.{index}.{name}.weight": Zeros(*shape) for name, shape in shapes.items()}


def factors(theta: float, rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """Return f [head_dim / 2]: 1 for short wavelengths, `factor` for long ones, and a transition between them.

    In the transition, 1 / f is linear in the number of turns that a wave makes in the original context.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - share) / rope["factor"] + share)).astype(np.float32)
