"""Format `qwen3_next`: a mix of a Qwen3 seed expressed exactly in the stock Qwen3-Next architecture.

Qwen3-Next has the mixture of Qwen2-MoE (composer/formats/qwen2_moe.py) and Qwen3's norms of queries and keys. Every
block of the mix has full attention. Three parts of Qwen3-Next are neutralised:

    output gate   sigmoid(G · x) multiplies the output of each head. With G = 0 it is ½, and the output projection is
                  doubled. The rows of G follow those of q in each head.
    norms         Qwen3-Next computes (1 + w) · x / rms(x), so w is stored minus 1.
    last block    transformers 4.57 requires a block of linear attention. One more block has it: its weights are
                  zeros, so it adds zero. Its sizes are minimal, and its FFN is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.errors import ExportError
from composer.formats import qwen2_moe
from composer.formats.plan import Format, Plan
from composer.mix.opening import Manifest, seed_config
from composer.tensors.rows import Below, Part, Rows, Scaled, Shifted, Zeros
from registry.blobs import BlobStore
from registry.checkpoints.configs import normalised
from registry.checkpoints.families import family_of

NAME = "qwen3_next"
# Sizes of the last block.
WIDTH, KERNEL, HEAD = 32, 4, 32
LINEAR: Mapping[str, int] = {
    "linear_conv_kernel_dim": KERNEL,
    "linear_key_head_dim": HEAD,
    "linear_value_head_dim": HEAD,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 1,
}


def plan(blobs: BlobStore, manifest: Manifest, dtype: str) -> Plan:
    """Plan the Qwen3-Next folder. Raises ExportError with the reasons if Qwen3-Next cannot express the mix."""
    base = qwen2_moe.plan(blobs, manifest, dtype, target=NAME)
    seed = seed_of(blobs, manifest, base)
    tensors = {}
    for name, rows in base.tensors.items():
        if not name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")) or seed["attention_bias"]:
            tensors[name] = _converted(name, rows, seed["head_dim"])
    tensors |= _last_block(base.config["num_hidden_layers"], base.config["hidden_size"])
    return Plan(
        config=_config(base.config, seed),
        tensors=tensors,
        dtype=base.dtype,
        # A small w loses digits when 1 is subtracted in a 16-bit type.
        float32=base.float32 | {name for name in tensors if name.endswith("norm.weight")},
        files=base.files,
    )


def seed_of(blobs: BlobStore, manifest: Manifest, base: Plan) -> dict[str, Any]:
    """Return the seed's configuration with all defaults. Raises ExportError if the plan is wider than the seed."""
    raw = seed_config(blobs, manifest.seed)
    seed = normalised(family_of(raw), raw)
    if base.config["rms_norm_eps"] != seed["rms_norm_eps"]:
        raise ExportError(
            "stock architectures have one rms_norm_eps for blocks and heads, so a Qwen3 mix cannot be wider than its "
            "seed; use --format nexus"
        )
    return seed


def _converted(name: str, rows: Rows, head_dim: int) -> Rows:
    *_, part, kind = name.split(".")
    if part.endswith("norm"):
        return Shifted(rows, -1)
    if part == "o_proj" and kind == "weight":
        return Scaled(rows, 2)
    if part == "q_proj":
        gate = Zeros(head_dim, *rows.shape[1:])
        heads = [Part(rows, start, start + head_dim) for start in range(0, rows.shape[0], head_dim)]
        return Below([part for head in heads for part in (head, gate)])
    return rows


def _last_block(index: int, hidden: int) -> dict[str, Rows]:
    """Return the block of linear attention, with one head, that adds zero."""
    shapes = {
        "input_layernorm.weight": (hidden,),
        "linear_attn.in_proj_qkvz.weight": (4 * HEAD, hidden),
        "linear_attn.in_proj_ba.weight": (2, hidden),
        "linear_attn.conv1d.weight": (3 * HEAD, 1, KERNEL),
        "linear_attn.dt_bias": (1,),
        "linear_attn.A_log": (1,),
        "linear_attn.norm.weight": (HEAD,),
        "linear_attn.out_proj.weight": (hidden, HEAD),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (WIDTH, hidden),
        "mlp.up_proj.weight": (WIDTH, hidden),
        "mlp.down_proj.weight": (hidden, WIDTH),
    }
    return {f"model.layers.{index}.{name}": Zeros(*shape) for name, shape in shapes.items()}


def _config(base: Mapping[str, Any], seed: Mapping[str, Any]) -> dict[str, Any]:
    layers = base["num_hidden_layers"]
    unknown = ("qkv_bias", "use_sliding_window")
    return {
        **{name: value for name, value in base.items() if name not in unknown},
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": NAME,
        "head_dim": seed["head_dim"],
        "attention_bias": seed["attention_bias"],
        "partial_rotary_factor": 1.0,
        "num_hidden_layers": layers + 1,
        "layer_types": ["full_attention"] * layers + ["linear_attention"],
        "mlp_only_layers": [layers],
        "intermediate_size": WIDTH,
        **LINEAR,
    }


FORMAT = Format(plan)
