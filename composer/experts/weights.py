"""Weights of an expert's folder, before it is contributed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from composer.experts.adapter import is_adapter
from composer.experts.lora import place_adapter, whole_weights
from composer.tensors.weights import Added, Stored, Weight, mapped
from registry.blobs import read_files
from registry.checkpoints.preflight import check_expert
from registry.errors import IncompatibleError
from registry.home import Registry
from registry.intake.weights import checkpoint_weights
from registry.records import SeedRecord


def folder_weights(registry: Registry, seed: SeedRecord, folder: Path) -> dict[str, Weight]:
    """Return the weights of a checkpoint, or of a LoRA adapter added to its seed, by canonical name.

    Raises UnsafeFileError, InvalidInputError, IncompatibleError (also for FFNs of another width than the seed's).
    """
    if is_adapter(folder):
        placed = place_adapter(registry, seed.name, folder)
        if not placed.is_sum:
            with ExitStack() as stack:  # a mapped file is readable after its name is removed
                whole = whole_weights(registry, seed, placed, stack).roles
                return {name: Stored(mapped(info)) for name, info in {**whole.ffn, **whole.trunk}.items()}
        weights: dict[str, Weight] = {name: Stored(mapped(info)) for name, info in placed.weights.items()}
        for name, update in placed.updates.items():
            weights[name] = Added(weights[name], mapped(update.a), mapped(update.b), update.scale)
        return weights
    checkpoint = check_expert(seed, read_files(registry.blobs, seed.files), folder)
    roles = checkpoint.roles
    width = seed.config.get("intermediate_size", roles.ffn_width)
    if roles.ffn_width != width:
        raise IncompatibleError(
            f"{folder}: the FFNs are {roles.ffn_width} wide and the seed's {width}, so the expert has no strength: "
            "leave the option out"
        )
    with ExitStack() as stack:  # a mapped file is readable after its name is removed
        roles = checkpoint_weights(registry, seed, checkpoint, stack).roles
        return {name: Stored(mapped(info)) for name, info in {**roles.ffn, **roles.trunk}.items()}
