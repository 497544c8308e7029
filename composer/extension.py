"""Extend a mix with a new expert without resetting its router, or compose it again without one of its experts.

Extension (arXiv 2408.15901, section 2.3): append FFN_new and d_new, then merge the trunks to
φ_f = (1 − λ)·φ_moe + λ·φ_new with λ = 1/(n+1). A light fine-tune follows, on half new and half previous domains.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from composer.composition import ComposeResult, combined_license, compose_lock, publish
from composer.errors import MixFormatError, RecipeError
from composer.gathering import Composition, first_lock, gather, load_domains, resolve_extension
from composer.mix.dense import dense_blobs
from composer.mix.domains import Domain, Standard, nearly_equal
from composer.mix.lock import Lock, LockedExpert, Settings
from composer.mix.merged_parts import scaled_trunk
from composer.mix.opening import Manifest, Member, find_mix, seed_config
from composer.mix.recipe import Training, routed_training
from composer.mix.router_blob import of_layer, stored_standard
from composer.mix.tensor_names import mlp_marker
from composer.model.routers import router_class
from composer.processes import led
from composer.progress import STAGE_SECONDS, Progress, added_up, silent
from composer.routed_trunk import extend_routed
from composer.tensors.stream import merge_trunks
from composer.tensors.torch_blobs import map_tensors
from composer.training.mix_training import learn, put_router
from composer.trunks.base import TrunkMerge
from composer.trunks.weighted import Weighted
from registry.catalog import queries
from registry.catalog.lifecycle import refuse_purged
from registry.checkpoints.families import family_of, layer_count
from registry.home import Registry
from registry.records import Digest


class Interpolate(TrunkMerge):
    """The Nexus paper's merge at extension: (1 − λ)·mix + λ·new expert."""

    elementwise: ClassVar[bool] = True

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        (new,) = experts
        return seed + self.share * (new - seed)


@led
def extend(
    registry: Registry,
    mix_ref: str,
    expert_ref: str,
    *,
    training: Training | None = None,
    license_override: str | None = None,
    progress: Progress = silent,
) -> ComposeResult:
    """Append an expert to a mix and publish the next version, with the old one as its parent.

    Raises NotFoundError, RecipeError, IncompatibleExpertsError, LicenseError before any expensive work.
    """
    record, manifest = find_mix(registry, mix_ref)
    refuse_purged(registry, record.ref, record.experts)
    composition = resolve_extension(
        registry, manifest, record.manifest, expert_ref, training=training, license_override=license_override
    )
    return _extend(registry, composition, record.name, parent=record.ref, progress=progress)


@led
def extend_lock(
    registry: Registry, lock: Lock, name: str, *, parent: str | None, progress: Progress = silent
) -> ComposeResult:
    """Extend a mix from a lock; the same lock gives the same blobs.

    Raises the errors of `extend`, and IntegrityError if the registry contradicts the lock.
    """
    return _extend(registry, gather(registry, lock), name, parent=parent, progress=progress)


def _extend(
    registry: Registry, composition: Composition, name: str, *, parent: str | None, progress: Progress
) -> ComposeResult:
    registry.actor.require("publish mix")
    started = time.monotonic()
    with added_up(STAGE_SECONDS) as seconds:
        manifest, warnings = assemble_extension(registry, composition, progress=progress)
    return publish(registry, name, manifest, started, parent=parent, warnings=warnings, stage_seconds=seconds)


def assemble_extension(
    registry: Registry, composition: Composition, *, progress: Progress = silent
) -> tuple[Manifest, list[str]]:
    """Extend without publishing, and return the manifest and the warnings."""
    lock, old = composition.lock, composition.old
    if old is None:
        raise MixFormatError("this lock composes a mix, it does not extend one: use compose_lock")
    (expert,) = lock.experts
    override = lock.settings.license_override
    license_of_mix = combined_license(old.seed, composition.members, override)
    if old.routed_trunk:
        routed = extend_routed(registry, composition, license_of_mix, progress)
        return routed, nearly_equal(composition.members, composition.means())
    training = lock.settings.training
    domains = load_domains(registry.blobs, composition)
    ffn, trunk = dense_blobs(registry.blobs, expert)
    members = [*old.members, Member(expert=expert, ffn=ffn)]
    merge = Interpolate(1 / len(members))
    difference = old.difference
    if difference is not None:  # the old trunk's share of the new one applies to its difference as well
        marker = mlp_marker(family_of(seed_config(registry.blobs, old.seed)))
        difference = scaled_trunk(registry.blobs, difference, marker, 1 - merge.share)
    router, standard = _appended_router(registry, old, domains[-1], training)
    draft = old.model_copy(
        update={
            "members": members,
            "trunk": merge_trunks(registry.blobs, merge, old.trunk, [trunk], progress),
            "difference": difference,
            "router": router,
            "load_balance": training.load_balance,
            "license": license_of_mix,
            "license_override": override,
            "lock": registry.blobs.put_bytes(lock.to_bytes()),
            "parent": lock.parent,
            "training": {},
        }
    )
    fitted = first_lock(registry, old).composed.merge.fitted
    new = domains[-1].name
    trained = learn(registry, draft, domains, standard, training, fitted=fitted, new=new, progress=progress)
    return trained, nearly_equal(composition.members, composition.means())


@led
def remove(
    registry: Registry,
    mix_ref: str,
    expert_ref: str,
    *,
    tokens: int | None = None,
    progress: Progress = silent,
) -> ComposeResult:
    """Compose a mix again without one expert, so that nothing of this expert remains, not even in the trunk.

    The result equals a new composition of the remaining experts with the settings of the first composition. The old
    version is recorded as the parent, but none of its weights are used. `tokens` replaces the tokens of fine-tuning.
    Raises NotFoundError, RecipeError.
    """
    record, manifest = find_mix(registry, mix_ref)
    gone = queries.get_member(registry, record.ref, expert_ref)
    rest = [member.expert for member in manifest.members if member.expert.ref != gone]
    if not rest:
        raise RecipeError(
            f"{gone} is the only expert of {record.ref}, and a mix needs at least one: compose a new mix instead"
        )
    settings = _settings_without(first_lock(registry, manifest), rest)
    if tokens is not None:
        settings = settings.model_copy(update={"training": _with_tokens(settings, tokens)})
    lock = Lock(seed=manifest.seed, experts=rest, embedder=manifest.embedder, settings=settings)
    return compose_lock(registry, lock, record.name, parent=record.ref, progress=progress)


def _with_tokens(settings: Settings, tokens: int) -> Training:
    """Return the training with other tokens; a routed trunk gets the learning rate of such a fine-tune."""
    usual = Training().model_dump()
    chosen = {name: value for name, value in settings.training.model_dump().items() if value != usual[name]}
    training = Training.parse({**chosen, "tokens": tokens})
    return routed_training(training) if settings.merge.routed else training


def _settings_without(first: Lock, rest: Sequence[LockedExpert]) -> Settings:
    """Return the first composition's settings, adapted to the remaining experts.

    In a weighted trunk merge, each remaining expert keeps its weight. An expert that was appended later gets the mean
    of the first weights, because its share at extension was that of an average expert.
    """
    settings = first.composed
    changed: dict[str, Any] = {"top_k": min(settings.top_k, len(rest) + settings.null_experts)}
    merge = settings.trunk_merge
    if isinstance(merge, Weighted):
        known = dict(zip((expert.ref for expert in first.experts), merge.weights, strict=True))
        weights = [known.get(expert.ref, sum(known.values()) / len(known)) for expert in rest]
        if not any(weights):
            raise RecipeError(
                "all remaining experts have weight 0 in the trunk merge: compose them as a new mix with other weights"
            )
        changed["trunk_merge"] = merge.model_copy(update={"weights": weights})
    return settings.model_copy(update=changed)


def _appended_router(
    registry: Registry, old: Manifest, new: Domain, training: Training
) -> tuple[Digest, Standard]:
    """Append one domain vector to the mix's routers; only a router that cannot keep its experts is reset."""
    config = seed_config(registry.blobs, old.seed)
    stored = map_tensors(registry.blobs.path(old.router))
    standard = stored_standard(stored)
    generator = torch.Generator().manual_seed(training.random_seed)
    routers = []
    for layer in range(layer_count(config)):
        router = router_class(old.router_kind)(
            config["hidden_size"], old.domain_dim, len(old.members), old.null_experts, layer
        )
        router.load_state_dict(of_layer(stored, layer))
        router.append(standard(new.mean), generator)
        routers.append(router)
    return put_router(registry, routers, standard), standard
