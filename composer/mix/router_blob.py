"""The blob of a mix's routers: how its tensors are named.

    layers.<block>.<name>                a parameter or buffer of that block's router
    standard.center, standard.scale      the standardisation of the domain vectors

A mix with a routed trunk has one router and no standardisation:

    context.unigrams, context.bigrams    profiles: a column per expert, the seed's last (composer/model/routed.py)
    context.filter                       sharpness and switching probability [2]

It needs neither torch nor a model: arrays of numpy and tensors of torch are both taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from composer.mix.domains import Standard

Array = TypeVar("Array")

LAYERS, CENTER, SCALE = "layers.", "standard.center", "standard.scale"
UNIGRAMS, BIGRAMS, FILTER = "context.unigrams", "context.bigrams", "context.filter"


def tensor_name(layer: int, name: str) -> str:
    """The name in the blob of a router's tensor: `layers.3.w1`."""
    return f"{LAYERS}{layer}.{name}"


def of_layer(tensors: Mapping[str, Array], layer: int) -> dict[str, Array]:
    """The tensors of one block's router by their own names."""
    prefix = tensor_name(layer, "")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def of_layers(tensors: Mapping[str, Array]) -> dict[tuple[int, str], Array]:
    """The tensors of all routers by block and own name."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(LAYERS):
            _, layer, own = name.split(".", 2)
            found[int(layer), own] = tensor
    return found


def router_tensors(states: Iterable[Mapping[str, Any]], standard: Standard[Any]) -> dict[str, Any]:
    """The blob's tensors from the state of each block's router, in order."""
    named = {
        tensor_name(layer, name): tensor
        for layer, state in enumerate(states)
        for name, tensor in state.items()
    }
    return {**named, CENTER: standard.center, SCALE: standard.scale.reshape(1)}


def stored_standard(tensors: Mapping[str, Any]) -> Standard[Any]:
    """The standardisation of a blob of torch tensors, copied."""
    return Standard(tensors[CENTER].clone(), tensors[SCALE].clone().reshape(()))
