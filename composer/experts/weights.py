"""Weights of an expert's folder in memory, before it is contributed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from composer.experts.adapter import is_adapter
from composer.experts.lora import place_adapter
from composer.tensors.stream import read
from registry.blobs import read_files
from registry.checkpoints.preflight import check_expert
from registry.errors import IncompatibleError
from registry.home import Registry
from registry.records import SeedRecord

if TYPE_CHECKING:
    import torch


def folder_weights(registry: Registry, seed: SeedRecord, folder: Path) -> dict[str, torch.Tensor]:
    """Return the float32 weights of a checkpoint, or of a LoRA adapter added to its seed, by canonical name.

    Raises UnsafeFileError, InvalidInputError, IncompatibleError (also for FFNs of another width than the seed's).
    """
    import torch

    if is_adapter(folder):
        placed = place_adapter(registry, seed.name, folder)
        weights = {n: torch.from_numpy(read(i, 0, i.parameters)) for n, i in placed.weights.items()}
        for name, update in placed.updates.items():
            a, b = (torch.from_numpy(read(i, 0, i.parameters)) for i in (update.a, update.b))
            weights[name] = torch.addmm(weights[name], b, a, alpha=update.scale)
        return weights
    roles = check_expert(seed, read_files(registry.blobs, seed.files), folder).roles
    width = seed.config.get("intermediate_size", roles.ffn_width)
    if roles.ffn_width != width:
        raise IncompatibleError(
            f"{folder}: the FFNs are {roles.ffn_width} wide and the seed's {width}, so the expert has no strength: "
            "leave the option out"
        )
    return {n: torch.from_numpy(read(i, 0, i.parameters)) for n, i in {**roles.ffn, **roles.trunk}.items()}
