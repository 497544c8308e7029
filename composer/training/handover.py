"""Weights that the other processes of a team take over from the first one, by a file in the run's work folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from composer.model.on_demand import replace_weights, weights_of
from composer.tensors.torch_blobs import map_tensors


def hand_over(model: Any, is_given: Callable[[str], bool], path: Path) -> None:
    """Write those weights of a mix, in float32."""
    values = {
        name: weight.value(torch.float32).contiguous()
        for name, weight in weights_of(model).items()
        if is_given(name)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(untied(model, values), path)


def take_over(model: Any, path: Path) -> None:
    """Replace the weights of a mix by those of the file, which stay mapped."""
    replace_weights(model, map_tensors(path))


def untied(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors without those that are others under a second name."""
    tied = getattr(model, "all_tied_weights_keys", {})
    return {name: tensor for name, tensor in tensors.items() if name not in tied}
