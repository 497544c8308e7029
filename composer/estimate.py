"""Estimate of a mix before it is composed: its weights, new bytes, memory, licence and time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from composer import memory
from composer.mix.initial_routers import initial_parameters
from composer.model.initial import PAIR_BUCKETS
from registry import licenses
from registry.catalog import queries
from registry.checkpoints.tensors import DTYPE_BYTES, read_header
from registry.errors import LicenseError
from registry.home import Registry
from registry.queue import runs
from registry.records import Digest, ExpertRecord, SeedRecord

if TYPE_CHECKING:
    from composer.mix.opening import Manifest
    from composer.mix.recipe import Training

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

    `memory` is the peak of all processes in bytes without mapped files, `memory_each` that of each process
    (composer/memory.py).

    If the licences conflict, `license` is None and `conflict` is the reason.
    """

    total: int
    active: int
    bytes_written: int
    memory: int
    memory_each: Sequence[int]
    tokens: int
    seconds: float
    seconds_measured: bool
    license: str | None
    conflict: str | None

    @property
    def is_allowed(self) -> bool:
        """Whether the licences allow one mix of these experts."""
        return self.license is not None


@dataclass(frozen=True)
class Weights:
    """Numbers of weights of a mix. `stored` are those of its seed and experts; `new` those of its routers, or of the
    low-rank difference that a fine-tune adds to each whole expert.
    """

    total: int
    active: int  # of a token
    stored: int
    new: int


def estimate(
    registry: Registry, seed: SeedRecord, experts: Sequence[ExpertRecord], recipe: Mapping[str, Any]
) -> Estimate:
    """Estimate the mix of a recipe (its fields as JSON) from sizes and licences alone.

    The memory is that of `resources.processes()`, the processes that share the fine-tune.
    """
    training = recipe["training"]
    trunk, shared = seed_weights(registry, seed)
    seconds, measured = 0.0, False
    if recipe["trunk_merge"]["method"] == "routed":
        weights = whole_weights(registry, seed, experts, training["lora_rank"] if training["tokens"] else 0)
        trained = len(experts) * weights.new
        model = memory.Model.of(seed, trunk, [shared])
        each = memory.of_whole(model, training, weights.stored, trained)
        profiles = (len(experts) + (seed.sample is not None)) * (seed.config["vocab_size"] + PAIR_BUCKETS)
        written = profiles * PROFILE_BYTES + trained * ROUTER_BYTES
    else:
        weights = merged_weights(
            registry, seed, experts, recipe["router"], recipe["top_k"], bool(recipe["top_p"])
        )
        ffns = [_weights(registry, expert.ffn, expert.dtype) for expert in experts]
        model = memory.Model.of(seed, trunk, [shared, *ffns])
        low_rank = 0
        if training["tokens"] and training["train"] == "lora":
            blobs = [seed.trunk, seed.ffn, *(expert.ffn for expert in experts)]
            low_rank = _difference_weights(registry, blobs, training["lora_rank"])
        each = memory.of_merged(model, training, domains=len(experts), low_rank=low_rank)
        written = _bytes_written(seed, experts, recipe, trunk, shared + sum(ffns), weights.new + low_rank)
    if training["tokens"] or recipe["trunk_merge"]["method"] != "routed":
        seconds, measured = _seconds(registry, seed, weights.active, training["tokens"])
    license_of_mix, conflict = _license(seed, experts)
    return Estimate(
        memory=sum(each),
        memory_each=each,
        total=weights.total,
        active=weights.active,
        bytes_written=written,
        tokens=training["tokens"],
        seconds=seconds,
        seconds_measured=measured,
        license=license_of_mix,
        conflict=conflict,
    )


def estimate_extension(
    registry: Registry, manifest: Manifest, expert_ref: str, training: Training
) -> Estimate:
    """Estimate a mix with one more expert, as `estimate` does. Raises NotFoundError."""
    members = [member.expert.ref for member in manifest.members]
    parts = queries.get_parts(registry, manifest.seed.name, [*members, expert_ref])
    recipe = {
        "training": training.model_dump(mode="json"),
        "trunk_merge": {"method": "routed" if manifest.routed_trunk else "mean"},
        "router": manifest.router_kind,
        "top_k": manifest.top_k,
        "top_p": manifest.top_p,
    }
    return estimate(registry, *parts, recipe)


def seed_weights(registry: Registry, seed: SeedRecord) -> tuple[int, int]:
    """Return the numbers of weights of a seed's trunk and of its FFNs."""
    return _weights(registry, seed.trunk, seed.dtype), _weights(registry, seed.ffn, seed.dtype)


def merged_weights(
    registry: Registry,
    seed: SeedRecord,
    experts: Sequence[ExpertRecord],
    router: str,
    top_k: int,
    uses_top_p: bool,
) -> Weights:
    """Count a mix with a merged trunk."""
    trunk, shared = seed_weights(registry, seed)
    routed = [_weights(registry, expert.ffn, expert.dtype) for expert in experts]
    # With top-p the number of experts depends on the token; the upper bound is all of them.
    top = sorted(routed, reverse=True)[: len(routed) if uses_top_p else top_k]
    gates = _layers(seed) * seed.config["hidden_size"] * len(experts)
    routers = _router_weights(seed, experts, router)
    stored = trunk + shared + sum(routed)
    return Weights(stored + routers, trunk + shared + sum(top) + gates, stored, routers)


def whole_weights(
    registry: Registry, seed: SeedRecord, experts: Sequence[ExpertRecord], rank: int
) -> Weights:
    """Count a mix of whole experts, of which a token uses one, with differences of this rank; 0 for none.

    An expert that is a difference itself keeps its rank.
    """
    trunk, shared = seed_weights(registry, seed)
    routed = [_weights(registry, expert.ffn, expert.dtype) for expert in experts]
    low_rank = [
        _weights(registry, expert.difference, "F32") if expert.difference else 0 for expert in experts
    ]
    own = [ffn for expert, ffn in zip(experts, routed, strict=True) if expert.difference is None]
    # One copy of the seed, if it is a choice itself or a low-rank expert is added to it.
    shares_seed = seed.sample is not None or len(own) < len(experts)
    trained = _difference_weights(registry, [seed.ffn, seed.trunk], rank) if rank else 0
    stored = len(own) * trunk + sum(own) + shares_seed * (trunk + shared)
    total = stored + sum(max(each, trained) for each in low_rank)
    return Weights(total, trunk + max(routed) + max(*low_rank, trained), stored, trained)


def _difference_weights(registry: Registry, blobs: Sequence[Digest], rank: int) -> int:
    """Weights of a low-rank difference in every projection of the blocks."""
    infos = [
        info for digest in blobs for info in read_header(registry.blobs.path(digest, verify=False)).values()
    ]
    return sum(rank * sum(i.shape) for i in infos if len(i.shape) == 2 and ".layers." in i.name)


def _bytes_written(
    seed: SeedRecord,
    experts: Sequence[ExpertRecord],
    recipe: Mapping[str, Any],
    trunk: int,
    ffns: int,
    float32: int,
) -> int:
    """Bytes of the blobs that this mix adds; blobs that it only references add none."""
    training = recipe["training"]
    trained = training["train"] if training["tokens"] else "router"
    width = DTYPE_BYTES[seed.dtype]
    same_trunk = recipe["trunk_merge"]["method"] == "seed" or all(expert.anchored for expert in experts)
    written = float32 * ROUTER_BYTES
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
