"""A mix of whole experts: composed and extended by token profiles and strengths, without a gradient step.

Its model is composer/model/routed.py.
Three steps, none of them a gradient step: count the tokens of each domain (profiles.py), find the strength of each
expert on text that nothing trained on (strengths.py), and write the router. All weights are references to the experts'
own blobs. An extension adds one profile and one strength and changes nothing else.
If the recipe asks for tokens, a fine-tune follows (fine_tune.py). That of an extension trains the new expert only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.derived import derived_number
from composer.errors import MissingTextError
from composer.gathering import Composition
from composer.mix.lock import Lock, LockedExpert
from composer.mix.opening import Manifest, Member
from composer.mix.recipe import Training
from composer.mix.router_blob import BIGRAMS, FILTER, UNIGRAMS
from composer.model.initial import SHARPNESS, SWITCHING
from composer.progress import Progress, timed
from composer.routed_trunk.profiles import Profile, Profiles
from composer.tensors.stream import put_arrays, read_arrays
from registry.domains import documents
from registry.domains.token_profile import STRENGTH, TOKENIZER_FILE
from registry.home import Registry
from registry.records import Digest

CONTEXT = "context"  # the router's kind in a manifest


def compose_routed(
    registry: Registry, composition: Composition, license: str, progress: Progress
) -> Manifest:
    """The manifest of a routed mix. Raises MissingTextError where an expert has no sample of its text.

    Profiles and strengths are kept in the registry's cache. If all are there and nothing is trained, composing needs
    neither a model nor torch.
    """
    lock = composition.lock
    settings = lock.composed
    _check_profiles(lock.experts)
    with timed("router"):
        profiles = Profiles(registry, lock.seed)
        columns = [_profile(profiles, expert) for expert in lock.experts]
        if lock.seed.sample:
            columns.append(profiles.stored(lock.seed.sample))
        router = _put_router(registry, columns)
    with timed("strengths"):
        strengths = _strengths(registry, lock, settings.training, progress)
    draft = Manifest(
        seed=lock.seed,
        members=[
            Member(expert=expert, ffn=expert.ffn, strength=strength)
            for expert, strength in zip(lock.experts, strengths, strict=True)
        ],
        shared=lock.seed.ffn,
        trunk=lock.seed.trunk,
        routed_trunk=True,
        router=router,
        router_kind=CONTEXT,
        combine=settings.combine,
        top_k=1,
        null_experts=int(lock.seed.sample is not None),
        load_balance=settings.training.load_balance,
        domain_dim=composition.means().shape[1],
        embedder=lock.embedder,
        license=license,
        license_override=settings.license_override,
        lock=registry.blobs.put_bytes(lock.to_bytes()),
        parent=None,
        training={"strengths": {e.ref: s for e, s in zip(lock.experts, strengths, strict=True)}},
    )
    return _trained(registry, draft, composition, settings.training, progress)


def extend_routed(registry: Registry, composition: Composition, license: str, progress: Progress) -> Manifest:
    """The manifest of a routed mix with one more expert; old profiles and strengths stay as they are."""
    lock, old = composition.lock, composition.old
    assert old is not None
    (expert,) = lock.experts
    _check_profiles([expert])
    with timed("router"):
        stored = read_arrays(registry.blobs, old.router)
        columns = [Profile(*pair) for pair in zip(stored[UNIGRAMS].T, stored[BIGRAMS].T, strict=True)]
        new = _profile(Profiles(registry, lock.seed), expert)
        columns.insert(len(old.members), new)  # the seed's column stays the last
        router = _put_router(registry, columns)
    with timed("strengths"):
        (strength,) = _strengths(registry, lock, lock.settings.training, progress)
    draft = old.model_copy(
        update={
            "members": [*old.members, Member(expert=expert, ffn=expert.ffn, strength=strength)],
            "router": router,
            "license": license,
            "license_override": lock.settings.license_override,
            "lock": registry.blobs.put_bytes(lock.to_bytes()),
            "parent": lock.parent,
            "training": {"strengths": {expert.ref: strength}},
        }
    )
    return _trained(registry, draft, composition, lock.settings.training, progress)


def _trained(
    registry: Registry, draft: Manifest, composition: Composition, training: Training, progress: Progress
) -> Manifest:
    """The draft after the fine-tune of the lock's experts, its last ones; if tokens are asked for."""
    if not training.tokens:
        return draft
    from composer.mix.domains import load_domain
    from composer.routed_trunk.fine_tune import fine_tune  # imports torch and the trainer

    new = composition.lock.experts
    pairs = zip(new, composition.embeddings[-len(new) :], strict=True)
    domains = [load_domain(registry.blobs, *pair) for pair in pairs]
    return fine_tune(registry, draft, domains, training, progress)


def _check_profiles(experts: Sequence[LockedExpert]) -> None:
    closed = [expert.ref for expert in experts if expert.sample is None and expert.profile is None]
    if closed:
        raise MissingTextError(
            f"a routed trunk needs text or a token profile of every expert, and {', '.join(closed)} shared none: "
            "choose another trunk merge, for example regmean, or contribute them again with --data or with an "
            "embedding from `nexusmix embed --seed`"
        )


def _profile(profiles: Profiles, expert: LockedExpert) -> Profile:
    """The profile of an expert's text, or the one that its owner shared."""
    if expert.sample is not None:
        return profiles.stored(expert.sample)
    assert expert.profile is not None
    stored = read_arrays(profiles.registry.blobs, expert.profile)
    return Profile(stored["unigrams"], stored["bigrams"])


def _put_router(registry: Registry, columns: Sequence[Profile]) -> Digest:
    unigrams, bigrams = zip(*columns, strict=True)
    tensors = {
        UNIGRAMS: np.stack(unigrams, axis=1),
        BIGRAMS: np.stack(bigrams, axis=1),
        FILTER: np.array([SHARPNESS, SWITCHING], np.float32),
    }
    return put_arrays(registry.blobs, tensors)


def _strengths(registry: Registry, lock: Lock, training: Training, progress: Progress) -> list[float]:
    """The strength of each expert of the lock, measured or as its owner measured it; 1 without a warm start."""
    if not training.warm_start:
        return [1.0] * len(lock.experts)
    found = []
    for done, expert in enumerate(lock.experts):
        progress("measuring strengths", done, len(lock.experts))
        found.append(_strength(registry, lock, expert))
    progress("measuring strengths", len(lock.experts), len(lock.experts))
    return found


def _strength(registry: Registry, lock: Lock, expert: LockedExpert) -> float:
    sample = expert.sample
    if sample is None:
        assert expert.profile is not None
        stored = read_arrays(registry.blobs, expert.profile)
        return round(float(stored[STRENGTH].item()), 2) if STRENGTH in stored else 1.0

    def measure() -> float:
        from composer.routed_trunk.strengths import find_strength  # imports torch

        texts = documents.load_documents(registry.blobs, sample)
        return find_strength(registry, lock.seed, expert, texts)

    key = [lock.seed.ffn, lock.seed.trunk, *expert.weights, sample, lock.seed.files[TOKENIZER_FILE]]
    return derived_number(registry, "strengths", key, measure)
