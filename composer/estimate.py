"""Estimate of a mix before it is composed: its weights, new bytes, memory, licence and time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from composer import memory
from composer.mix.initial_routers import initial_parameters
from composer.model.initial import PAIR_BUCKETS
from registry import licenses
from registry.checkpoints.tensors import DTYPE_BYTES, read_header
from registry.errors import LicenseError
from registry.home import Registry
from registry.queue import runs
from registry.records import Digest, ExpertRecord, SeedRecord

# Floating-point operations per weight and token: forward and backward, as scaling laws count them.
TRAINING_OPERATIONS = 6
# Training speed of one ordinary core. It is used until a run on this machine gives a measured speed.
OPERATIONS_PER_CORE = 1.5e10
LATEST_RUNS = 20
ROUTER_BYTES = 4  # routers stay float32
PROFILE_BYTES = 2


@dataclass(frozen=True)
class Estimate:
    """Estimate of a mix, counted in weights. `seconds` is rough; it comes from earlier runs if `seconds_measured`.

    `memory` is the peak in bytes without mapped files (composer/memory.py).

    If the licences conflict, `license` is None and `conflict` is the reason.
    """

    total: int
    active: int
    bytes_written: int
    memory: int
    tokens: int
    seconds: float
    seconds_measured: bool
    license: str | None
    conflict: str | None

    @property
    def is_allowed(self) -> bool:
        """Whether the licences allow one mix of these experts."""
        return self.license is not None


def estimate(
    registry: Registry, seed: SeedRecord, experts: Sequence[ExpertRecord], recipe: Mapping[str, Any]
) -> Estimate:
    """Estimate the mix of a recipe (its fields as JSON) from sizes and licences alone."""
    training = recipe["training"]
    trunk, shared = (_weights(registry, digest, seed.dtype) for digest in (seed.trunk, seed.ffn))
    routed = [_weights(registry, expert.ffn, expert.dtype) for expert in experts]
    if recipe["trunk_merge"]["method"] == "routed":
        low_rank = [
            _weights(registry, expert.difference, "F32") if expert.difference else 0 for expert in experts
        ]
        return _routed(registry, seed, experts, training, trunk, shared, routed, low_rank)
    router = _router_weights(seed, experts, recipe["router"])
    # With top-p the number of experts depends on the token; the upper bound is all of them.
    top = sorted(routed, reverse=True)[: len(routed) if recipe["top_p"] else recipe["top_k"]]
    gates = _layers(seed) * seed.config["hidden_size"] * len(experts)
    active = trunk + shared + sum(top) + gates
    seconds, measured = _seconds(registry, seed, active, training["tokens"])
    license_of_mix, conflict = _license(seed, experts)
    model = memory.Model.of(seed, trunk, [shared, *routed])
    return Estimate(
        memory=memory.of_merged(model, training, domains=len(experts)),
        total=trunk + shared + sum(routed) + router,
        active=active,
        bytes_written=_bytes_written(seed, experts, recipe, trunk, shared + sum(routed), router),
        tokens=training["tokens"],
        seconds=seconds,
        seconds_measured=measured,
        license=license_of_mix,
        conflict=conflict,
    )


def _routed(
    registry: Registry,
    seed: SeedRecord,
    experts: Sequence[ExpertRecord],
    training: Mapping[str, Any],
    trunk: int,
    shared: int,
    routed: Sequence[int],
    low_rank: Sequence[int],
) -> Estimate:
    """A mix whose trunk is routed: whole experts, of which a token uses one.

    Token profiles are written and, after a fine-tune, a low-rank difference of each expert.
    """
    choices = len(experts) + (seed.sample is not None)
    profiles = choices * (seed.config["vocab_size"] + PAIR_BUCKETS)
    license_of_mix, conflict = _license(seed, experts)
    own = [ffn for expert, ffn in zip(experts, routed, strict=True) if expert.difference is None]
    # One copy of the seed, if it is a choice itself or a low-rank expert is added to it.
    shares_seed = seed.sample is not None or len(own) < len(experts)
    trained = _difference_weights(registry, seed, training["lora_rank"]) if training["tokens"] else 0
    active = trunk + max(routed) + max(*low_rank, trained)
    seconds, measured = _seconds(registry, seed, active, training["tokens"]) if trained else (0.0, False)
    whole = len(own) * trunk + sum(own) + shares_seed * (trunk + shared)
    model = memory.Model.of(seed, trunk, [shared])
    return Estimate(
        memory=memory.of_whole(model, training, whole, len(experts) * trained),
        total=whole + sum(max(each, trained) for each in low_rank),
        active=active,
        bytes_written=profiles * PROFILE_BYTES + len(experts) * trained * ROUTER_BYTES,
        tokens=training["tokens"],
        seconds=seconds,
        seconds_measured=measured,
        license=license_of_mix,
        conflict=conflict,
    )


def _difference_weights(registry: Registry, seed: SeedRecord, rank: int) -> int:
    """Weights of one expert's low-rank difference in every projection of the blocks."""
    infos = [
        info
        for digest in (seed.ffn, seed.trunk)
        for info in read_header(registry.blobs.path(digest, verify=False)).values()
    ]
    return sum(rank * sum(i.shape) for i in infos if len(i.shape) == 2 and ".layers." in i.name)


def _bytes_written(
    seed: SeedRecord,
    experts: Sequence[ExpertRecord],
    recipe: Mapping[str, Any],
    trunk: int,
    ffns: int,
    router: int,
) -> int:
    """Bytes of the blobs that this mix adds; blobs that it only references add none."""
    training = recipe["training"]
    trained = training["train"] if training["tokens"] else "router"
    width = DTYPE_BYTES[seed.dtype]
    same_trunk = recipe["trunk_merge"]["method"] == "seed" or all(expert.anchored for expert in experts)
    written = router * ROUTER_BYTES
    if trained in ("trunk", "all") or not same_trunk:
        written += trunk * width
    if trained in ("ffn", "all"):
        written += ffns * width
    return written


def _seconds(registry: Registry, seed: SeedRecord, active: int, tokens: int) -> tuple[float, bool]:
    """Seconds of composing, and whether they come from the latest runs on this seed, not from counted operations.

    The time of a warm start does not depend on the tokens of the fine-tune, so it is not part of the rate.
    """
    rates, others = [], []
    for run in runs.list_runs(registry, states=["succeeded"], kind="compose", limit=LATEST_RUNS):
        result = run.result or {}
        trained = (result.get("training") or {}).get("tokens", 0)
        if result.get("seed") == seed.name and trained and result.get("seconds"):
            tuning = (result.get("stage_seconds") or {}).get("fine-tune") or result["seconds"]
            rates.append(trained / tuning)
            others.append(result["seconds"] - tuning)
    if rates:
        return tokens / median(rates) + median(others), True
    speed = OPERATIONS_PER_CORE * (os.cpu_count() or 1)
    return TRAINING_OPERATIONS * active * tokens / speed, False


def _license(seed: SeedRecord, experts: Sequence[ExpertRecord]) -> tuple[str | None, str | None]:
    owners = [(seed.name, seed.license), *((expert.ref, expert.license) for expert in experts)]
    try:
        return licenses.combine(owners), None
    except LicenseError as error:
        return None, str(error)


def _router_weights(seed: SeedRecord, experts: Sequence[ExpertRecord], router: str) -> int:
    """Weights of the routers of all blocks, with the domain vectors that each of them stores."""
    hidden, layers, width = seed.config["hidden_size"], _layers(seed), experts[0].embedding.embedder.dimension
    domains = len(experts) * width
    shapes = [first.shape for first in initial_parameters(router, hidden, width, len(experts)).values()]
    return layers * (sum(map(math.prod, shapes)) + domains)


def _layers(seed: SeedRecord) -> int:
    return int(seed.config["num_hidden_layers"])


def _weights(registry: Registry, digest: Digest, dtype: str) -> int:
    """Number of weights in a blob by its size; the header's few kilobytes are ignored."""
    return registry.blobs.size(digest) // DTYPE_BYTES[dtype]
