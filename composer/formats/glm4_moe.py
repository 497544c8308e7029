"""A mix of a Qwen3 seed for llama.cpp, in its architecture GLM-4-MoE; a part of format `gguf`.

llama.cpp's Qwen3-Next needs blocks of linear attention, so it cannot read format `qwen3_next`. Its GLM-4-MoE has
Qwen3's attention. With the right metadata it computes  y = S(x) + Σ_top p_i · R_i(x),  as in qwen2_moe.py. The shared
expert S has no gate, and one width applies to all FFNs.
"""

from __future__ import annotations

from composer.errors import ExportError
from composer.formats import qwen2_moe, qwen3_next
from composer.formats.padding import below, beside
from composer.formats.plan import Plan
from composer.mix.opening import Manifest
from composer.tensors.rows import Rows, Scaled, Zeros
from registry.blobs import BlobStore

MLP = qwen2_moe.MLP
NAME = "glm4_moe"


def plan(blobs: BlobStore, manifest: Manifest, dtype: str) -> Plan:
    """Plan the tensors. Raises ExportError with the reasons if GLM-4-MoE cannot express the mix."""
    base = qwen2_moe.plan(blobs, manifest, dtype, target=qwen3_next.NAME)
    seed = qwen3_next.seed_of(blobs, manifest, base)
    if seed["attention_bias"]:
        raise ExportError(
            "attention_bias is true, but llama.cpp's architectures with norms of queries and keys have no such "
            f"biases; use --format {qwen3_next.NAME}"
        )
    sizes = ("moe_intermediate_size", "shared_expert_intermediate_size")
    width = max(base.config[size] for size in sizes)
    tensors = {
        name: _converted(name, rows, width)
        for name, rows in base.tensors.items()
        if not name.endswith((".bias", qwen2_moe.SHARED_GATE))
    }
    zeros = Zeros(
        base.config["num_experts"]
    )  # llama.cpp adds them to the probabilities before it chooses experts
    tensors |= {
        f"{MLP.format(i=i)}gate.e_score_correction.bias": zeros
        for i in range(base.config["num_hidden_layers"])
    }
    config = {
        **base.config,
        **dict.fromkeys(sizes, width),
        "intermediate_size": width,
        "model_type": NAME,
        "head_dim": seed["head_dim"],
    }
    return Plan(config=config, tensors=tensors, dtype=base.dtype, files=base.files)


def _converted(name: str, rows: Rows, width: int) -> Rows:
    if name.endswith(("gate_proj.weight", "up_proj.weight")):
        return below(rows, width - rows.shape[0])
    if name.endswith("down_proj.weight"):
        whole = Scaled(rows, 0.5) if ".shared_expert." in name else rows
        return beside(whole, width - rows.shape[1])
    return rows
