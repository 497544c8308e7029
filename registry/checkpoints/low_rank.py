"""Low-rank differences: an expert stored as W_seed + B A in its projections (arXiv 2106.09685).

The blob has `…q_proj.lora_A` [R, in] and `…q_proj.lora_B` [out, R] for each changed projection, in float32, with the
scale in B. All projections have one rank R: smaller ones are filled with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.checkpoints.tensors import TensorInfo

A, B = "lora_A", "lora_B"


def pair_names(weight: str) -> tuple[str, str]:
    """Return the names of A and B of the projection whose weight has this name."""
    module = weight.removesuffix(".weight")
    return f"{module}.{A}", f"{module}.{B}"


def weight_name(name: str) -> str:
    """Return the name of the weight that a matrix of a difference changes."""
    return f"{name.rpartition('.')[0]}.weight"


def shape_of(infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Return the rank of a difference, and the names of its projections without their path."""
    rank = next(info.shape[0] for name, info in infos.items() if name.endswith(A))
    return {"rank": rank, "targets": sorted({name.split(".")[-2] for name in infos})}
