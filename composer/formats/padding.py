"""Padding of a Qwen2-MoE model to the sizes that its readers support. The function it computes stays the same.

Readers compute head_dim as hidden_size / heads, and CPU kernels and quantised types need rows of whole blocks of 32
numbers. So the model may get more channels, and more heads, that are always zero:

    embeddings, o, down     zeros in the new channels
    q, k, v                 zero rows for the new heads
    norms                   the mean square is over more channels: weights × √(H / H′), eps × H / H′

Shape suffixes: H model width, H′ that of the export.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composer.tensors.rows import Below, Beside, Rows, Scaled, Zeros

BLOCK = 32


def whole_blocks(size: int) -> int:
    """Round a size up to a multiple of BLOCK."""
    return -(-size // BLOCK) * BLOCK


def padded(tensors: Mapping[str, Rows], config: Mapping[str, Any]) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Return the tensors and the configuration of the padded model; they are unchanged if all sizes fit."""
    hidden, heads, kv_heads = (
        config[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    attention = tensors["model.layers.0.self_attn.q_proj.weight"].shape[0]
    step = math.lcm(BLOCK, attention // kv_heads)  # all query heads of a key head
    width = -(-max(hidden, attention) // step) * step
    if width == hidden == attention:
        return dict(tensors), dict(config)
    padding = _Padding(hidden, width, attention, kv_heads)
    sizes = {
        "hidden_size": width,
        "num_attention_heads": width * heads // attention,
        "num_key_value_heads": width * kv_heads // attention,
        "rms_norm_eps": config["rms_norm_eps"] * hidden / width,
    }
    return {name: padding.of(name, rows) for name, rows in tensors.items()}, {**config, **sizes}


@dataclass(frozen=True)
class _Padding:
    """`hidden` H and `width` H′; the heads have `attention` channels together and `kv_heads` of them are keys."""

    hidden: int
    width: int
    attention: int
    kv_heads: int

    def of(self, name: str, rows: Rows) -> Rows:
        """Return the padded tensor."""
        *_, part, kind = name.split(".")
        more = self.width - self.hidden
        if part.endswith("norm"):
            return below(Scaled(rows, math.sqrt(self.hidden / self.width)), more)
        if part in ("q_proj", "k_proj", "v_proj"):
            heads = rows.shape[0] * (self.width - self.attention) // self.attention
            return below(rows if kind == "bias" else beside(rows, more), heads)
        if part == "o_proj":
            return below(beside(rows, self.width - self.attention), more)
        if part == "down_proj":
            return below(rows, more)
        return beside(rows, more)  # embeddings, head, gates, and the FFNs' gates and ups


def beside(rows: Rows, count: int) -> Rows:
    """Add columns of zeros to a matrix."""
    return Beside([rows, Zeros(rows.shape[0], count)]) if count else rows


def below(rows: Rows, count: int) -> Rows:
    """Add rows of zeros to a matrix, or zeros to a vector."""
    return Below([rows, Zeros(count, *rows.shape[1:])]) if count else rows
