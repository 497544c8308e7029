"""The linear gate to which a mix's router collapses: its experts' embeddings do not depend on what is routed.

Shape suffixes: N routed experts, P = N and the null experts, M domain-embedding width, H model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from composer.mix.opening import Manifest, seed_config
from composer.mix.router_blob import of_layer
from composer.tensors.stream import read, stored_tensors
from composer.variants import ROUTERS, load
from registry.blobs import BlobStore
from registry.checkpoints.families import layer_count

Parameters = Mapping[str, np.ndarray]


def gates(blobs: BlobStore, manifest: Manifest) -> Iterator[np.ndarray]:
    """Each block's gate [P, H], one block in memory at a time; the rows of null experts come last."""
    config = seed_config(blobs, manifest.seed)
    stored = stored_tensors(blobs, manifest.router)
    row = ROUTERS[manifest.router_kind]
    gate: Callable[[Parameters], np.ndarray] | None = load(row.gate) if row.gate else None
    for layer in range(layer_count(config)):
        parameters = {name: read(info, 0, info.parameters) for name, info in of_layer(stored, layer).items()}
        null = parameters.pop("null", None)
        rows = gate(parameters) if gate else _gate_by_torch(manifest, config["hidden_size"], parameters)
        yield rows if null is None else np.concatenate([rows, rows.mean(axis=0) + null])


def nexus_gate(parameters: Parameters) -> np.ndarray:
    """composer.model.routers.nexus without torch, whose import would take longer than all else: W2 · SwiGLU(W1 · d)."""
    gate, value = np.split(parameters["domains"] @ parameters["w1"].T, 2, axis=1)
    with np.errstate(over="ignore"):  # e^-gate may be infinite, and the quotient is 0 then
        swish = gate / (1 + np.exp(-gate))
    return (swish * value) @ parameters["w2"].T


def stored_gate(parameters: Parameters) -> np.ndarray:
    """The gate of a router whose rows are its parameters."""
    return parameters["weight"]


def _gate_by_torch(manifest: Manifest, hidden_size: int, parameters: Parameters) -> np.ndarray:
    """The gate of any other router."""
    import torch

    from composer.model.routers import router_class

    router = router_class(manifest.router_kind)(hidden_size, manifest.domain_dim, len(manifest.members))
    router.load_state_dict({name: torch.from_numpy(values) for name, values in parameters.items()})
    with torch.no_grad():
        return router.gate().numpy()
