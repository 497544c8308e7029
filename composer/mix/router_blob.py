"""Tensor names in the blob of a mix's routers.

    layers.<block>.<name>                a parameter or buffer of that block's router
    standard.center, standard.scale      the standardisation of the domain vectors

A mix with a routed trunk has one router and no standardisation:

    context.unigrams, context.bigrams    profiles: a column per expert, the seed's last (composer/model/routed.py)
    context.filter                       sharpness and switching probability [2]

The module needs neither torch nor a model. It works with numpy arrays and torch tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from composer.mix.domains import Standard

Array = TypeVar("Array")

LAYERS, CENTER, SCALE = "layers.", "standard.center", "standard.scale"
UNIGRAMS, BIGRAMS, FILTER = "context.unigrams", "context.bigrams", "context.filter"


def tensor_name(layer: int, name: str) -> str:
    """Return the name of a router's tensor in the blob, such as `layers.3.w1`."""
    return f"{LAYERS}{layer}.{name}"


def of_layer(tensors: Mapping[str, Array], layer: int) -> dict[str, Array]:
    """Return the tensors of one block's router by their names in the router."""
    prefix = tensor_name(layer, "")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def of_layers(tensors: Mapping[str, Array]) -> dict[tuple[int, str], Array]:
    """Return the tensors of all routers by block and by name in the router."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(LAYERS):
            _, layer, own = name.split(".", 2)
            found[int(layer), own] = tensor
    return found


def router_tensors(states: Iterable[Mapping[str, Any]], standard: Standard[Any]) -> dict[str, Any]:
    """Build the blob's tensors from the state of each block's router, in block order."""
    named = {
        tensor_name(layer, name): tensor
        for layer, state in enumerate(states)
        for name, tensor in state.items()
    }
    return {**named, CENTER: standard.center, SCALE: standard.scale.reshape(1)}


def stored_standard(tensors: Mapping[str, Any]) -> Standard[Any]:
    """Copy the standardisation out of a blob's torch tensors."""
    return Standard(tensors[CENTER].clone(), tensors[SCALE].clone().reshape(()))
