"""Weights of an expert's folder, before it is contributed."""

from __future__ import annotations

from pathlib import Path

from composer.experts.adapter import is_adapter
from composer.experts.lora import place_adapter
from composer.tensors.weights import Added, Stored, Weight, mapped
from registry.blobs import read_files
from registry.checkpoints.preflight import check_expert
from registry.errors import IncompatibleError
from registry.home import Registry
from registry.records import SeedRecord


def folder_weights(registry: Registry, seed: SeedRecord, folder: Path) -> dict[str, Weight]:
    """Return the weights of a checkpoint, or of a LoRA adapter added to its seed, by canonical name.

    Raises UnsafeFileError, InvalidInputError, IncompatibleError (also for FFNs of another width than the seed's).
    """
    if is_adapter(folder):
        placed = place_adapter(registry, seed.name, folder)
        weights: dict[str, Weight] = {name: Stored(mapped(info)) for name, info in placed.weights.items()}
        for name, update in placed.updates.items():
            weights[name] = Added(weights[name], mapped(update.a), mapped(update.b), update.scale)
        return weights
    roles = check_expert(seed, read_files(registry.blobs, seed.files), folder).roles
    width = seed.config.get("intermediate_size", roles.ffn_width)
    if roles.ffn_width != width:
        raise IncompatibleError(
            f"{folder}: the FFNs are {roles.ffn_width} wide and the seed's {width}, so the expert has no strength: "
            "leave the option out"
        )
    return {name: Stored(mapped(info)) for name, info in {**roles.ffn, **roles.trunk}.items()}
