"""Composition: all steps from a recipe to a published mix, in order from top to bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from composer.gathering import Composition, gather, load_domains, resolve
from composer.mix.dense import dense_blobs
from composer.mix.domains import Standard, nearly_equal
from composer.mix.initial_routers import put_fresh_routers
from composer.mix.lock import Lock, LockedExpert, LockedSeed
from composer.mix.opening import Manifest, Member, seed_config
from composer.mix.recipe import Recipe, Training
from composer.processes import led
from composer.progress import STAGE_SECONDS, Progress, added_up, silent
from composer.routed_trunk import compose_routed
from composer.tensors.stream import merge_trunks
from registry import licenses
from registry.catalog.publish import publish_mix
from registry.checkpoints.families import layer_count
from registry.errors import LicenseError
from registry.home import Registry
from registry.records import Digest, MixRecord


@dataclass(frozen=True)
class ComposeResult:
    """A published mix.

    `bytes_written` counts the mix's own blobs, not those that it shares with its seed, its experts or its parent.
    `stage_seconds`: the part of `seconds` spent in each training stage, such as "trunk", "router" and "fine-tune".
    These times are not in the manifest, because equal locks must give equal manifests.
    """

    mix: MixRecord
    manifest: Manifest
    bytes_written: int
    seconds: float
    warnings: list[str] = field(default_factory=list)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


@led
def compose(registry: Registry, recipe: Recipe, *, progress: Progress = silent) -> ComposeResult:
    """Resolve and check a recipe, merge the trunks, attach the experts, train the routers, and publish the mix.

    Raises NotFoundError, RecipeError, IncompatibleExpertsError, LicenseError before any expensive work;
    IntegrityError, StorageError, TrainingDivergedError later. Nothing is published if a step fails.
    """
    return _compose(registry, resolve(registry, recipe), recipe.name, progress=progress)


@led
def compose_lock(
    registry: Registry, lock: Lock, name: str, *, parent: str | None = None, progress: Progress = silent
) -> ComposeResult:
    """Compose a mix from a lock; the same lock gives the same blobs. `parent` is a `name@version` for the lineage.

    Raises the errors of `compose`, and IntegrityError if the registry contradicts the lock.
    """
    return _compose(registry, gather(registry, lock), name, parent=parent, progress=progress)


def _compose(
    registry: Registry,
    composition: Composition,
    name: str,
    *,
    parent: str | None = None,
    progress: Progress,
) -> ComposeResult:
    registry.actor.require("publish mix")
    started = time.monotonic()
    with added_up(STAGE_SECONDS) as seconds:
        manifest, warnings = assemble(registry, composition, progress=progress)
    return publish(registry, name, manifest, started, parent=parent, warnings=warnings, stage_seconds=seconds)


def assemble(
    registry: Registry, composition: Composition, *, progress: Progress = silent
) -> tuple[Manifest, list[str]]:
    """Compose without publishing, and return the manifest and the warnings."""
    lock = composition.lock
    settings = lock.composed
    license_of_mix = combined_license(lock.seed, lock.experts, settings.license_override)
    means = composition.means()
    standard = Standard.of(means)
    config = seed_config(registry.blobs, lock.seed)
    training, merge = settings.training, settings.merge
    if merge.routed:
        return compose_routed(registry, composition, license_of_mix, progress), nearly_equal(
            lock.experts, means
        )
    whole = [dense_blobs(registry.blobs, expert) for expert in lock.experts]
    # Draw the routers in parallel: it takes a third of the time of merging the trunks.
    with ThreadPoolExecutor(max_workers=1) as beside:
        drawing = beside.submit(
            put_fresh_routers,
            registry.blobs,
            settings.router,
            means,
            standard,
            layers=layer_count(config),
            hidden_size=config["hidden_size"],
            random_seed=training.random_seed,
            null_experts=settings.null_experts,
        )
        trunk = merge_trunks(registry.blobs, merge, lock.seed.trunk, [trunk for _, trunk in whole], progress)
    draft = Manifest(
        seed=lock.seed,
        members=[
            Member(expert=expert, ffn=ffn) for expert, (ffn, _) in zip(lock.experts, whole, strict=True)
        ],
        shared=lock.seed.ffn,
        trunk=trunk,
        router=drawing.result(),
        router_kind=settings.router,
        **settings.routing(),
        load_balance=training.load_balance,
        domain_dim=means.shape[1],
        embedder=lock.embedder,
        license=license_of_mix,
        license_override=settings.license_override,
        lock=registry.blobs.put_bytes(lock.to_bytes()),
        parent=None,
        training={},
    )
    manifest = (
        _learn(registry, draft, composition, training, merge.fitted, progress) if training.learns else draft
    )
    return manifest, nearly_equal(lock.experts, means)


def combined_license(seed: LockedSeed, experts: Sequence[LockedExpert], override: str | None) -> str:
    """Return the licence of the mix as an SPDX expression.

    Raises LicenseError, which names the conflict, unless there is an override.
    """
    owners = [(seed.name, seed.license), *((expert.ref, expert.license) for expert in experts)]
    try:
        return licenses.combine(owners)
    except LicenseError:
        if not override:
            raise
        return " AND ".join(sorted({f"({expression})" for _, expression in owners}))


def publish(
    registry: Registry,
    name: str,
    manifest: Manifest,
    started: float,
    *,
    parent: str | None,
    warnings: list[str],
    stage_seconds: Mapping[str, float],
) -> ComposeResult:
    """Store the manifest, then commit the mix's database row as the last step."""
    digest = registry.blobs.put_bytes(manifest.to_bytes())
    record = publish_mix(
        registry,
        name=name,
        seed=manifest.seed.name,
        experts=[member.expert.ref for member in manifest.members],
        manifest=digest,
        lock=manifest.lock,
        blobs=manifest.blobs(),
        parent=parent,
    )
    written = sum(registry.blobs.size(each) for each in {digest, *own_blobs(registry, manifest)})
    return ComposeResult(record, manifest, written, time.monotonic() - started, warnings, stage_seconds)


def own_blobs(registry: Registry, manifest: Manifest) -> set[Digest]:
    """Return the blobs that exist only because of this mix: not those of its seed, its experts or its parent."""
    others = {manifest.seed.ffn, manifest.seed.trunk}
    others |= {digest for member in manifest.members for digest in member.expert.weights}
    if manifest.parent is not None:
        parent = Manifest.model_validate(json.loads(registry.blobs.read_bytes(manifest.parent)))
        others |= {parent.trunk, parent.router, parent.shared}
        others |= {parent.difference} if parent.difference else set()
        others |= {digest for member in parent.members for digest in member.weights}
    mine = {
        manifest.trunk,
        manifest.router,
        manifest.shared,
        manifest.lock,
        *(digest for member in manifest.members for digest in member.weights),
    } | ({manifest.difference} if manifest.difference else set())
    return mine - others


def _learn(
    registry: Registry,
    draft: Manifest,
    composition: Composition,
    training: Training,
    fitted: bool,
    progress: Progress,
) -> Manifest:
    """Train the draft and return its manifest.

    Only this step needs torch, whose import takes longer than all earlier steps.
    """
    from composer.mix.router_blob import stored_standard
    from composer.tensors.torch_blobs import map_tensors
    from composer.training.mix_training import learn

    domains = load_domains(registry.blobs, composition)
    standard = stored_standard(map_tensors(registry.blobs.path(draft.router)))
    return learn(registry, draft, domains, standard, training, fitted=fitted, progress=progress)
