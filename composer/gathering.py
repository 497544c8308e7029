"""Gathering of all data that a composition needs from the database, read in one session.

Shape suffixes: N members, M domain-embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from composer.errors import IncompatibleExpertsError, RecipeError
from composer.mix.domains import Domain, load_domain
from composer.mix.lock import (
    ExtensionSettings,
    Lock,
    LockedExpert,
    Settings,
    embedding_digest,
    lock_expert,
    lock_seed,
)
from composer.mix.opening import Manifest, read_manifest
from composer.mix.recipe import Recipe, Training, routed_training
from registry.blobs import BlobStore
from registry.catalog import queries
from registry.errors import IntegrityError
from registry.home import Registry
from registry.records import Digest, DomainEmbedding, ExpertRecord, SeedRecord


@dataclass(frozen=True)
class Composition:
    """A lock with its members in the router's order, and their domain embeddings.

    An extension's members are those of `old`, the mix to extend, followed by the new expert.
    """

    lock: Lock
    members: Sequence[LockedExpert]
    embeddings: Sequence[DomainEmbedding]
    old: Manifest | None = None

    def means(self) -> np.ndarray:
        """Return the mean vectors [N, M] of the members' domains."""
        return np.stack([embedding.mean for embedding in self.embeddings])


def load_domains(blobs: BlobStore, composition: Composition) -> list[Domain]:
    """Load the members' domains with their vectors and text. Raises NotFoundError, IntegrityError."""
    pairs = zip(composition.members, composition.embeddings, strict=True)
    return [load_domain(blobs, member, embedding) for member, embedding in pairs]


def resolve(registry: Registry, recipe: Recipe) -> Composition:
    """Pin the seed and the experts of a recipe. Raises NotFoundError, RecipeError, IncompatibleExpertsError."""
    seed, experts = queries.get_parts(registry, recipe.seed, recipe.experts)
    refs = [expert.ref for expert in experts]
    if len(set(refs)) < len(refs):
        twice = sorted({ref for ref in refs if refs.count(ref) > 1})
        raise RecipeError(f"experts listed more than once: {', '.join(twice)}")
    if recipe.top_k > len(experts) + recipe.null_experts:
        nulls = f" and {recipe.null_experts} null experts" if recipe.null_experts else ""
        raise RecipeError(
            f"top_k is {recipe.top_k}, but the recipe has only {len(experts)} routed experts{nulls}: use a lower top_k"
        )
    _check_fit(seed, experts)
    lock = Lock(
        seed=lock_seed(seed),
        experts=[lock_expert(expert) for expert in experts],
        embedder=str(experts[0].embedding.embedder),
        settings=Settings.model_validate(recipe.model_dump(exclude={"name", "seed", "experts"})),
    )
    return Composition(lock, lock.experts, [expert.embedding for expert in experts])


def resolve_extension(
    registry: Registry,
    old: Manifest,
    digest: Digest,
    expert_ref: str,
    *,
    training: Training | None = None,
    license_override: str | None = None,
) -> Composition:
    """Pin the extension of the mix `old` by one expert. `digest` is that of the mix's manifest.

    If there is no fine-tune and the warm start fits the trunk again, it also solves the embeddings of all experts
    again. `training.train_router` overrides this. Raises NotFoundError, RecipeError, IncompatibleExpertsError,
    IntegrityError.
    """
    members = [member.expert for member in old.members]
    refs = [member.ref for member in members]
    seed, experts = queries.get_parts(registry, old.seed.name, [*refs, expert_ref])
    new = lock_expert(experts[-1])
    if new.ref in refs:
        raise RecipeError(f"this mix already contains {new.ref}")
    _check_fit(seed, experts)
    training = training or Training(load_balance=old.load_balance)
    if old.routed_trunk:
        training = routed_training(training)
    if training.train_router is None and not training.tokens and _fits_trunk(registry, old, new, training):
        # The old experts' embeddings were solved for the states of the old trunk, and the new fit changes the trunk.
        training = training.model_copy(update={"train_router": True})
    lock = Lock(
        seed=old.seed,
        experts=[new],
        embedder=old.embedder,
        settings=ExtensionSettings.model_validate(
            {
                "training": training.model_dump(),
                "license_override": license_override or old.license_override,
            }
        ),
        parent=digest,
    )
    return _compared(lock, [*members, new], experts, old)


def first_lock(registry: Registry, manifest: Manifest) -> Lock:
    """Return the lock of the first composition in a chain of extensions."""
    while manifest.parent is not None:
        manifest = read_manifest(registry, manifest.parent)
    return Lock.model_validate(json.loads(registry.blobs.read_bytes(manifest.lock)))


def gather(registry: Registry, lock: Lock) -> Composition:
    """Read the data that a lock pins.

    Raises NotFoundError, MixFormatError, and IntegrityError if a domain embedding is not the pinned one.
    """
    old = None if lock.parent is None else read_manifest(registry, lock.parent)
    members = [*(member.expert for member in old.members), *lock.experts] if old else lock.experts
    _, experts = queries.get_parts(registry, lock.seed.name, [member.ref for member in members])
    return _compared(lock, members, experts, old)


def _fits_trunk(registry: Registry, old: Manifest, new: LockedExpert, training: Training) -> bool:
    """Whether the extension fits the trunk again; if the new expert has the mix's trunk, there is nothing to fit."""
    same = new.trunk == old.trunk and new.difference is None and old.difference is None
    return training.warm_start and not same and first_lock(registry, old).composed.merge.fitted


def _compared(
    lock: Lock, members: Sequence[LockedExpert], experts: Sequence[ExpertRecord], old: Manifest | None
) -> Composition:
    """Return the composition after a check that every member's domain embedding is the pinned one."""
    wrong = [
        f"{member.ref} has {found}, the lock pins {member.embedding}"
        for member, expert in zip(members, experts, strict=True)
        if (found := embedding_digest(expert.embedding)) != member.embedding
    ]
    if wrong:
        raise IntegrityError(
            f"the registry's domain embeddings differ from those in the lock: {'; '.join(wrong)}; "
            "restore the database from a backup, or compose these experts again from a recipe"
        )
    return Composition(lock, members, [expert.embedding for expert in experts], old)


def _check_fit(seed: SeedRecord, experts: Sequence[ExpertRecord]) -> None:
    """Check that all experts have the given seed and one embedder, and that none is withdrawn.

    Raises IncompatibleExpertsError, which lists all reasons.
    """
    first = experts[0].embedding.embedder
    reasons = [
        f"{expert.ref} is an expert of the seed {expert.seed}, not of {seed.name}"
        for expert in experts
        if expert.seed != seed.name
    ]
    reasons += [
        f"{expert.ref} was embedded by {expert.embedding.embedder}, {experts[0].ref} by {first}"
        for expert in experts
        if expert.embedding.embedder != first
    ]
    reasons += [f"{expert.ref} was withdrawn: {expert.withdrawn}" for expert in experts if expert.withdrawn]
    if reasons:
        raise IncompatibleExpertsError(f"these experts cannot be in one mix: {'; '.join(reasons)}")
