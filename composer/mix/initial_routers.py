"""New routers for all blocks, drawn and stored one tensor at a time.

Shape suffixes: N routed experts, M domain-embedding width.
"""

from __future__ import annotations

import numpy as np

from composer.mix.domains import Standard
from composer.mix.router_blob import router_tensors, tensor_name
from composer.model.initial import Normal, fresh_null
from composer.tensors.stream import put_float32
from composer.variants import ROUTERS, load
from registry.blobs import BlobStore
from registry.records import Digest


def initial_parameters(
    kind: str, hidden_size: int, domain_dim: int, count: int, block: int = 0
) -> dict[str, Normal]:
    """Return the initial distribution of each parameter of a block's router for `count` experts."""
    row = ROUTERS[kind]
    initial = load(row.initial) if row.initial else row.load().fresh
    return dict(initial(hidden_size, domain_dim, count, block))


def put_fresh_routers(
    blobs: BlobStore,
    kind: str,
    means_NM: np.ndarray,
    standard: Standard[np.ndarray],
    *,
    layers: int,
    hidden_size: int,
    random_seed: int,
    null_experts: int = 0,
) -> Digest:
    """Store a new router for each of `layers` blocks, and the standardisation of the domain vectors.

    Each parameter has its own stream of random numbers, so the order of drawing does not matter.
    """
    count, width = means_NM.shape
    domains_NM = standard(means_NM)
    nulls = fresh_null(hidden_size, null_experts) if null_experts else {}
    given = router_tensors([{"domains": domains_NM}] * layers, standard)
    drawn = {
        tensor_name(layer, name): (first, np.random.SeedSequence([random_seed, layer, place]))
        for layer in range(layers)
        for place, (name, first) in enumerate(
            sorted((initial_parameters(kind, hidden_size, width, count, layer) | nulls).items())
        )
    }

    def values(name: str) -> np.ndarray:
        if name in given:
            return given[name]
        first, seeds = drawn[name]
        parameter = np.random.Generator(np.random.SFC64(seeds)).standard_normal(first.shape, dtype=np.float32)
        parameter *= first.std
        parameter += first.mean
        return parameter

    shapes = {name: array.shape for name, array in given.items()}
    return put_float32(blobs, shapes | {name: first.shape for name, (first, _) in drawn.items()}, values)
