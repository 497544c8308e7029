"""A mix of whole experts: composed and extended by token profiles and strengths, without a gradient step.

Its model is composer/model/routed.py.
Three steps, none of them a gradient step: count the tokens of each domain (profiles.py), find the strength of each
expert on text that nothing trained on (strengths.py), and write the router. All weights are references to the experts'
own blobs. An extension adds one profile and one strength and changes nothing else.
If the recipe asks for tokens, a fine-tune follows (fine_tune.py). That of an extension trains the new expert only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from composer.errors import MissingTextError
from composer.gathering import Composition, load_domains
from composer.mix.domains import Domain, load_domain
from composer.mix.lock import Lock, LockedExpert
from composer.mix.opening import Manifest, Member, open_tokenizer, seed_config
from composer.mix.recipe import Training
from composer.mix.router_blob import BIGRAMS, FILTER, UNIGRAMS
from composer.model.routed import SHARPNESS, SWITCHING
from composer.progress import Progress, timed
from composer.routed_trunk.profiles import Profile, profile
from composer.routed_trunk.strengths import find_strength
from composer.tensors.torch_blobs import map_tensors, put_tensors
from registry.domains import documents
from registry.domains.token_profile import STRENGTH
from registry.home import Registry
from registry.records import Digest

Counter = Callable[[Sequence[str]], Profile]
"""Function that counts the tokens of documents."""

CONTEXT = "context"  # the router's kind in a manifest


def compose_routed(
    registry: Registry, composition: Composition, license: str, progress: Progress
) -> Manifest:
    """The manifest of a routed mix. Raises MissingTextError where an expert has no sample of its text."""
    lock = composition.lock
    settings = lock.composed
    domains = load_domains(registry.blobs, composition)
    _check_profiles(composition.members, domains)
    general = documents.load_documents(registry.blobs, lock.seed.sample) if lock.seed.sample else []
    with timed("router"):
        count = _counter(registry, lock)
        columns = _profiles(registry, lock, domains, count)
        if general:
            columns.append(count(general))
        router = _put_router(registry, columns)
    with timed("strengths"):
        strengths = _strengths(registry, lock, domains, settings.training, progress)
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
        null_experts=int(bool(general)),
        load_balance=settings.training.load_balance,
        domain_dim=composition.means().shape[1],
        embedder=lock.embedder,
        license=license,
        license_override=settings.license_override,
        lock=registry.blobs.put_bytes(lock.to_bytes()),
        parent=None,
        training={"strengths": {e.ref: s for e, s in zip(lock.experts, strengths, strict=True)}},
    )
    return _trained(registry, draft, domains, settings.training, progress)


def extend_routed(registry: Registry, composition: Composition, license: str, progress: Progress) -> Manifest:
    """The manifest of a routed mix with one more expert; old profiles and strengths stay as they are."""
    lock, old = composition.lock, composition.old
    assert old is not None
    (expert,) = lock.experts
    new = load_domain(registry.blobs, expert, composition.embeddings[-1])
    _check_profiles([expert], [new])
    with timed("router"):
        stored = map_tensors(registry.blobs.path(old.router))
        columns = [
            Profile(*pair) for pair in zip(stored[UNIGRAMS].unbind(1), stored[BIGRAMS].unbind(1), strict=True)
        ]
        columns[len(old.members) : len(old.members)] = _profiles(
            registry, lock, [new], _counter(registry, lock)
        )
        router = _put_router(registry, columns)  # the seed's column stays the last
    with timed("strengths"):
        (strength,) = _strengths(registry, lock, [new], lock.settings.training, progress)
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
    return _trained(registry, draft, [new], lock.settings.training, progress)


def _trained(
    registry: Registry, draft: Manifest, domains: Sequence[Domain], training: Training, progress: Progress
) -> Manifest:
    """The draft after the fine-tune of the experts of these domains, its last ones; if tokens are asked for."""
    if not training.tokens:
        return draft
    from composer.routed_trunk.fine_tune import fine_tune  # imports the trainer

    return fine_tune(registry, draft, domains, training, progress)


def _check_profiles(experts: Sequence[LockedExpert], domains: Sequence[Domain]) -> None:
    closed = [
        expert.ref
        for expert, domain in zip(experts, domains, strict=True)
        if not domain.has_text and expert.profile is None
    ]
    if closed:
        raise MissingTextError(
            f"a routed trunk needs text or a token profile of every expert, and {', '.join(closed)} shared none: "
            "choose another trunk merge, for example regmean, or contribute them again with --data or with an "
            "embedding from `nexusmix embed --seed`"
        )


def _profiles(registry: Registry, lock: Lock, domains: Sequence[Domain], count: Counter) -> list[Profile]:
    """Return the profile of each of the lock's experts: of its text, or the one that its owner shared."""
    found = []
    for expert, domain in zip(lock.experts, domains, strict=True):
        if domain.has_text:
            found.append(count(domain.documents))
        else:
            assert expert.profile is not None
            stored = map_tensors(registry.blobs.path(expert.profile))
            found.append(Profile(stored["unigrams"], stored["bigrams"]))
    return found


def _shared_strength(registry: Registry, expert: LockedExpert) -> float:
    """The strength in the expert's token profile; 1 where its owner did not measure it."""
    assert expert.profile is not None
    stored = map_tensors(registry.blobs.path(expert.profile))
    return round(stored[STRENGTH].item(), 2) if STRENGTH in stored else 1.0


def _counter(registry: Registry, lock: Lock) -> Counter:
    """Return the function that counts documents with the seed's tokenizer."""
    tokenizer = open_tokenizer(registry.blobs, lock.seed.files)
    vocabulary = seed_config(registry.blobs, lock.seed)["vocab_size"]
    return lambda texts: profile(tokenizer, texts, vocabulary)


def _put_router(registry: Registry, columns: Sequence[Profile]) -> Digest:
    unigrams, bigrams = zip(*columns, strict=True)
    tensors = {
        UNIGRAMS: torch.stack([column.half() for column in unigrams], dim=1),
        BIGRAMS: torch.stack([column.half() for column in bigrams], dim=1),
        FILTER: torch.tensor([SHARPNESS, SWITCHING]),
    }
    return put_tensors(registry.blobs, tensors)


def _strengths(
    registry: Registry, lock: Lock, domains: Sequence[Domain], training: Training, progress: Progress
) -> list[float]:
    """The strength of each expert of the lock, measured or as its owner measured it; 1 without a warm start."""
    if not training.warm_start:
        return [1.0] * len(domains)
    found = []
    for done, (expert, domain) in enumerate(zip(lock.experts, domains, strict=True)):
        progress("measuring strengths", done, len(domains))
        if domain.has_text:
            found.append(find_strength(registry, lock.seed, expert, domain.documents))
        else:
            found.append(_shared_strength(registry, expert))
    progress("measuring strengths", len(domains), len(domains))
    return found
