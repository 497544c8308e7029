"""Mixes whose gates depend on the context: published versions with random routers."""

from __future__ import annotations

from typing import Any

import torch

from composer.mix.opening import OpenMix, find_mix, open_mix
from composer.tensors.torch_blobs import map_tensors, put_tensors
from registry.catalog.publish import publish_mix

SPREADS = {"w2": 0.3, "readout": 4.0, "directions": 0.3}


def publish_random_context(registry: Any, name: str) -> OpenMix:
    """Publish the next version of a mix with the router nexus_context, whose weights are random, and open it."""
    _, manifest = find_mix(registry, name)
    generator = torch.Generator().manual_seed(0)
    router = {n: t.clone() for n, t in map_tensors(registry.blobs.path(manifest.router)).items()}
    for tensor_name, tensor in router.items():
        if spread := SPREADS.get(tensor_name.rsplit(".", 1)[1]):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
    changed = manifest.model_copy(update={"router": put_tensors(registry.blobs, router)})
    publish_mix(
        registry,
        name=name,
        seed=manifest.seed.name,
        experts=[member.expert.ref for member in manifest.members],
        manifest=registry.blobs.put_bytes(changed.to_bytes()),
        lock=manifest.lock,
        blobs=changed.blobs(),
    )
    return open_mix(registry, changed)
