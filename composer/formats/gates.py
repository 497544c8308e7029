"""Conversion of a mix's router to a linear gate, possible because expert embeddings do not depend on the input.

Shape suffixes: N routed experts, P = N + null experts, M domain-embedding width, H model width, F features of the
context (composer/model/prefix.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from composer.mix.opening import Manifest, seed_config
from composer.mix.router_blob import of_layer, of_layers
from composer.tensors.stream import read, stored_tensors
from composer.variants import ROUTERS, load
from registry.blobs import BlobStore
from registry.checkpoints.families import layer_count

Parameters = Mapping[str, np.ndarray]


def gates(blobs: BlobStore, manifest: Manifest) -> Iterator[np.ndarray]:
    """Yield each block's gate, with one block in memory at a time; the rows of null experts come last.

    It is [P, H], or [P, H + F] for a router with context.
    """
    config = seed_config(blobs, manifest.seed)
    stored = stored_tensors(blobs, manifest.router)
    row = ROUTERS[manifest.router_kind]
    gate: Callable[[Parameters], np.ndarray] | None = load(row.gate) if row.gate else None
    for layer in range(layer_count(config)):
        parameters = {name: read(info, 0, info.parameters) for name, info in of_layer(stored, layer).items()}
        null = parameters.pop("null", None)
        hidden = config["hidden_size"]
        rows = gate(parameters) if gate else _gate_by_torch(manifest, hidden, parameters)
        if null is not None:
            offsets = np.pad(null, ((0, 0), (0, rows.shape[1] - hidden)))
            rows = np.concatenate([rows, rows.mean(axis=0) + offsets])
        yield rows


def directions(blobs: BlobStore, manifest: Manifest) -> list[np.ndarray]:
    """Return each block's directions [N, H] of a router with context; none for any other router."""
    stored = of_layers(stored_tensors(blobs, manifest.router))
    layers = sorted(layer for layer, name in stored if name == "directions")
    infos = [stored[layer, "directions"] for layer in layers]
    return [read(info, 0, info.parameters) for info in infos]


def nexus_gate(parameters: Parameters) -> np.ndarray:
    """Return the gate of a Nexus router: W2 · SwiGLU(W1 · d), as in composer.model.routers.nexus.

    It uses numpy, because importing torch would take longer than the rest of an export.
    """
    gate, value = np.split(parameters["domains"] @ parameters["w1"].T, 2, axis=1)
    with np.errstate(over="ignore"):  # e^-gate may be infinite; the quotient is then 0
        swish = gate / (1 + np.exp(-gate))
    return (swish * value) @ parameters["w2"].T


def nexus_context_gate(parameters: Parameters) -> np.ndarray:
    """Return the gate [N, H + F] of a Nexus router with context, as composer.model.routers.nexus_context does."""
    projection = np.concatenate([parameters["w2"], parameters["readout"]])
    return nexus_gate({**parameters, "w2": projection})


def stored_gate(parameters: Parameters) -> np.ndarray:
    """Return the gate of a router that stores its gate as a parameter."""
    return parameters["weight"]


def _gate_by_torch(manifest: Manifest, hidden_size: int, parameters: Parameters) -> np.ndarray:
    """Return the gate of any other router."""
    import torch

    from composer.model.routers import router_class

    router = router_class(manifest.router_kind)(hidden_size, manifest.domain_dim, len(manifest.members))
    router.load_state_dict({name: torch.from_numpy(values) for name, values in parameters.items()})
    with torch.no_grad():
        return router.gate().numpy()
