"""Running means over the prefix: each block's router sees the text before a token, not its state alone.

Block l scores the input u_l of its attention with one direction per expert, V_l. The score's mean over the prefix is
added to the inputs of the routers of block l and of all blocks above it:

    r_l[t]   = mean over s ≤ t of V_l · u_l[s]
    features = [1, r_0[t], …, r_l[t]] / rms(h_l[t])

h_l is the residual stream before the norm of the FFN, and x = norm(h_l). So the gates read one normalised vector, as
if the means were channels of the residual stream. A stock architecture computes the same function: an attention head
whose queries and keys are zero attends uniformly, and its values are V_l · u_l (composer/formats/qwen2_moe.py).

The running sums and the number of tokens at every position are kept in the key-value cache as one more layer. So
cropping, reordering and repeating a cache treat them as they treat keys. Padding adds nothing to a sum.

This file needs torch only, so that an export can include it.
Shape suffixes: B batch, S sequence, T = cached tokens + S, H model width, L blocks, N experts, F features, C = L·N + 1
columns of the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

WITHOUT_NORM = 1e-6


class PrefixMeans:
    """Sums over the prefix of every block's scores, of one forward pass. They pass no gradient."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._mask_BT: torch.Tensor | None = None
        self._before_BC: torch.Tensor | None = None
        self._sums: dict[int, torch.Tensor] = {}  # [B, S, N] per block
        self._count_BS1: torch.Tensor | None = None
        self._inverse_BS1: torch.Tensor | None = None  # 1 / rms(h) of the current block

    def begin(self, mask: Any, before: torch.Tensor | None) -> None:
        """Begin a pass. `before` [B, C] is the last of `states` in the cache.

        `mask` [B, cached tokens + S] is 0 at padding. A mask that transformers prepared (4 axes) is not read.
        """
        padding = isinstance(mask, torch.Tensor) and mask.dim() == 2
        self._mask_BT, self._before_BC = mask if padding else None, before
        self._sums, self._count_BS1, self._inverse_BS1 = {}, None, None

    def add(self, block: int, scores: torch.Tensor) -> None:
        """Add the scores [B, S, N] of one block."""
        scores_BSN = scores.detach().float()
        tokens_BS1 = torch.ones_like(scores_BSN[..., :1])
        if self._mask_BT is not None:
            tokens_BS1 = self._mask_BT[:, -scores.shape[1] :, None].to(scores_BSN)
            scores_BSN = scores_BSN.masked_fill(tokens_BS1 == 0, 0)  # even where padding computes infinity
        sums_BSN = scores_BSN.cumsum(dim=1)
        if self._before_BC is not None:
            n = scores.shape[-1]
            sums_BSN = sums_BSN + self._before_BC[:, None, block * n : (block + 1) * n].to(sums_BSN)
        self._sums[block] = sums_BSN
        if self._count_BS1 is None:
            self._count_BS1 = tokens_BS1.cumsum(dim=1)
            if self._before_BC is not None:
                self._count_BS1 = self._count_BS1 + self._before_BC[:, None, -1:].to(tokens_BS1)

    def normalise(self, hidden: torch.Tensor, eps: float) -> None:
        """Keep 1 / rms of the residual stream [B, S, H] before the FFN of the block that is being computed."""
        square_BS1 = hidden.detach().float().square().mean(dim=-1, keepdim=True)
        self._inverse_BS1 = torch.rsqrt(square_BS1 + eps)

    def features(self, block: int) -> torch.Tensor:
        """Features [B, S, F] of one block's router: 1, then for each expert its means in blocks 0 … `block`."""
        assert self._count_BS1 is not None and self._inverse_BS1 is not None
        device = self._inverse_BS1.device
        sums_BSF = torch.stack([self._sums[k].to(device) for k in range(block + 1)], dim=-1).flatten(-2)
        means_BSF = sums_BSF / self._count_BS1.to(device).clamp(min=1)
        return torch.cat([torch.ones_like(means_BSF[..., :1]), means_BSF], dim=-1) * self._inverse_BS1

    def states(self) -> torch.Tensor:
        """Sums of all blocks and the number of tokens [B, S, C], for the cache."""
        assert self._count_BS1 is not None
        device = self._count_BS1.device
        sums = [self._sums[block].to(device) for block in range(self.blocks)]
        return torch.cat([*sums, self._count_BS1], dim=-1)


class BlockContext:
    """Hooks of one block, which pass its attention input and its residual stream to the means, and these to its router.

    The hooks are bound methods, so a deep copy of the model gets hooks of its own.
    """

    def __init__(self, means: PrefixMeans, number: int, block: Any, router: Any) -> None:
        self.means, self.number, self.router = means, number, router
        attention_of(block).register_forward_pre_hook(self._attend, with_kwargs=True)
        norm = norm_before_ffn(block)
        self.eps = eps_of(norm)
        (block.mlp if norm is None else norm).register_forward_pre_hook(self._normalise)
        block.mlp.register_forward_pre_hook(self._route)
        block.mlp.register_forward_hook(self._release)

    def _attend(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        u_BSH = attention_input(args, kwargs)
        scores_BSN = nn.functional.linear(u_BSH.detach().float(), self.router.directions)
        self.means.add(self.number, scores_BSN)

    def _normalise(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.means.normalise(args[0], self.eps)

    def _route(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.router.context = self.means.features(self.number).flatten(0, 1)

    def _release(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.router.context = None


def attention_of(block: Any) -> nn.Module:
    """The attention of a decoder block."""
    found: nn.Module = block.self_attn if hasattr(block, "self_attn") else block.attention
    return found


def attention_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states [B, S, H] with which an attention module is called."""
    given: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return given


def norm_before_ffn(block: Any) -> nn.Module | None:
    """The norm whose output the block's FFN reads; None where the FFN reads the residual stream (OLMo 2)."""
    layers = dict(block.named_children())
    if "pre_feedforward_layernorm" in layers:
        return layers["pre_feedforward_layernorm"]
    if "post_feedforward_layernorm" in layers:
        return None
    return layers.get("post_attention_layernorm", layers.get("input_layernorm"))


def eps_of(norm: nn.Module | None) -> float:
    """The number that a norm adds to the mean square; without a norm, one that keeps a state of zero finite."""
    found: float = getattr(norm, "variance_epsilon", getattr(norm, "eps", WITHOUT_NORM))
    return found
