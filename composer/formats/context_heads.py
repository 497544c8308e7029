"""Context as attention heads: the running means that gates read (composer/model/prefix.py), in stock Qwen2-MoE.

An attention head whose queries and keys are zero attends to all tokens so far equally. Its output is the running mean
of its values, and these are the scores V_l · u_l of the block's attention input. The residual stream gets D more
channels. Channel 0 is constant, and channel 1 + l · N + j is the mean of expert j's score in block l:

    embeddings   ε in channel 0
    q, k         more heads of zeros; all query heads of one key head
    v            rows V_l, in the first new key head(s)
    o            ε · r_l to the channels of block l
    norms        the channels add almost nothing to the mean square: weights × √(H / H′), eps × H / H′
                 before the FFN, the channels' weight is √(U / H′) / ε, so the gate reads r / rms(h)
                 in the other norms it is 0, so nothing else reads the channels
    FFNs, head   columns and rows of zeros

H′ = H + D is a multiple of 32 if H is one, because quantised types store rows in blocks of 32.
U is the seed's width; H is larger if the model was padded before.
Shape suffixes: H model width, H′ that of the export, D = H′ − H, N experts, P gate rows, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from composer.tensors.rows import Below, Beside, Given, Repeated, Rows, Scaled, Zeros

EPSILON = 2.0**-10  # a power of two: exact in every float type
BLOCK = 32


def context_heads(
    directions: Sequence[np.ndarray], config: Mapping[str, Any], unpadded: int
) -> ContextHeads | None:
    """Return the heads that a plain Qwen2-MoE configuration needs; None if the gates read no context.

    `unpadded` is the width over whose channels the seed takes the mean square.
    """
    if not directions:
        return None
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return ContextHeads(directions, hidden, hidden // heads, heads, config["num_key_value_heads"], unpadded)


@dataclass(frozen=True)
class ContextHeads:
    """The additional heads of an export. `directions` [N, H] are those of each block."""

    directions: Sequence[np.ndarray]
    hidden: int
    head_dim: int
    heads: int
    kv_heads: int
    unpadded: int

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.heads // self.kv_heads

    @property
    def added_kv_heads(self) -> int:
        """The fewest key heads with room for the values and, in the channels that they add, for all means."""
        experts = len(self.directions[0])
        channels = 1 + len(self.directions) * experts
        step = self.group * self.head_dim
        added = max(math.ceil(channels / step), math.ceil(experts / self.head_dim))
        while added * step % math.gcd(self.hidden, BLOCK):
            added += 1
        return added

    @property
    def channels(self) -> int:
        """Channels D that the residual stream gets."""
        return self.added_kv_heads * self.group * self.head_dim

    @property
    def width(self) -> int:
        """Width H′ of the export."""
        return self.hidden + self.channels

    @property
    def scale(self) -> float:
        """√(H / H′)."""
        return math.sqrt(self.hidden / self.width)

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Change the sizes of a Qwen2-MoE configuration."""
        return {
            **config,
            "hidden_size": self.width,
            "num_attention_heads": self.heads + self.added_kv_heads * self.group,
            "num_key_value_heads": self.kv_heads + self.added_kv_heads,
            "rms_norm_eps": config["rms_norm_eps"] * self.scale**2,
        }

    def tensors(self, plain: Mapping[str, Rows]) -> dict[str, Rows]:
        """Widen the tensors of a Qwen2-MoE model of width H, except the gates, which `gate` widens."""
        return {name: self._widened(name, rows) for name, rows in plain.items()}

    def gate(self, rows: np.ndarray, block: int) -> np.ndarray:
        """Return the gate [P, H′] of one block from the router's rows [P, H + F], whose features are by expert."""
        wide = np.zeros((len(rows), self.width), np.float32)
        wide[:, : self.hidden + 1] = rows[:, : self.hidden + 1]  # with the constant
        experts = len(self.directions[0])
        by_expert = rows[:, self.hidden + 1 :].reshape(len(rows), experts, block + 1)
        by_block = by_expert.transpose(0, 2, 1).reshape(len(rows), -1)
        wide[:, self.hidden + 1 : self.hidden + 1 + by_block.shape[1]] = by_block
        return wide

    def _widened(self, name: str, rows: Rows) -> Rows:
        *parents, part, kind = name.split(".")
        added = self.channels
        if part.endswith("norm"):
            seen = math.sqrt(self.unpadded / self.width) / EPSILON
            read = seen if part == "post_attention_layernorm" else 0.0
            return Below([Scaled(rows, self.scale), Given(np.full(added, read, np.float32))])
        if part == "embed_tokens":
            constant = np.zeros(added, np.float32)
            constant[0] = EPSILON
            return Beside([rows, Repeated(constant, rows.shape[0])])
        if part in ("q_proj", "k_proj", "v_proj"):
            new = self.added_kv_heads * self.head_dim * (self.group if part == "q_proj" else 1)
            if kind == "bias":
                return Below([rows, Zeros(new)])
            heads = self._values(int(parents[2]), new) if part == "v_proj" else Zeros(new, self.width)
            return Below([Beside([rows, Zeros(rows.shape[0], added)]), heads])
        if part == "o_proj":
            return Below([Beside([rows, Zeros(rows.shape[0], added)]), *self._outputs(int(parents[2]))])
        if part == "down_proj":
            return Below([rows, Zeros(added, rows.shape[1])])
        return Beside([rows, Zeros(rows.shape[0], added)])  # the head, and the FFNs' gates and ups

    def _values(self, block: int, height: int) -> Rows:
        """Values of the new key heads [height, H′]: the directions, then zeros."""
        values = np.zeros((height, self.width), np.float32)
        directions_NH = self.directions[block]
        values[: len(directions_NH), : self.hidden] = directions_NH
        return Given(values)

    def _outputs(self, block: int) -> list[Rows]:
        """Rows [D, H′] of the output projection: each mean goes to its channel, from the first head that has it."""
        experts = len(self.directions[block])
        before = 1 + block * experts
        means = np.zeros((experts, self.width), np.float32)
        for expert in range(experts):
            kv_head, place = divmod(expert, self.head_dim)
            means[expert, self.hidden + kv_head * self.group * self.head_dim + place] = EPSILON
        after = self.channels - before - experts
        return [Zeros(before, self.width), Given(means), Zeros(after, self.width)]
