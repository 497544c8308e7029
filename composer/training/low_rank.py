"""Low-rank differences (LoRA, arXiv 2106.09685) that train in a mix with one trunk, in place of its weights.

Every projection of the blocks gets W + B A with W frozen: those of the attention, and of the shared and the routed
experts. Embeddings, norms and the head do not train. One blob stores all pairs (composer/mix/merged_parts.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from composer.mix.tensor_names import PREFIX
from composer.model.routed import AdaptedLinear, Assignment, differences

ALL = 0  # every token has the differences, so they are those of one choice


def add_low_rank(model: Any, rank: int, random_seed: int) -> None:
    """Give every projection of the blocks a difference. Its first value is zero, so the model computes the same."""
    torch.manual_seed(random_seed)
    all_tokens = Assignment([ALL])
    all_tokens.assign(torch.full((1, 1), ALL), 0)
    for block in model.blocks():
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear) and "router" not in name.split("."):
                adapted = AdaptedLinear.around(layer, {ALL: rank}, ALL, all_tokens, head=False)
                adapted.differences.to(model.device)


def low_rank(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the differences by name; none if there are no differences."""
    return differences(model, ALL)


def stored_name(name: str) -> str:
    """Return the name under which a parameter of a difference is stored."""
    return name.removeprefix(PREFIX).replace(f".differences.{ALL}.", ".", 1)
