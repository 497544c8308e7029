"""The contenders of bench.real: each scores one way to serve a domain's text from the experts of one kind."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.real_experts import GENERAL, SEED, texts_of
from composer.bits_per_byte import HeldOut, bits_per_byte, windows
from composer.composition import assemble
from composer.evaluation.baselines import btm, dume
from composer.evaluation.changing_text import (
    ChangingText,
    Choices,
    changing_text,
    measure,
    mixture_choices,
    own_expert_nats,
    stream_of,
    summary,
)
from composer.evaluation.contenders import open_dense_merging
from composer.gathering import resolve
from composer.mix.lock import LockedExpert, LockedSeed, lock_expert, lock_seed
from composer.mix.opening import Manifest, expert_weights, open_dense, open_expert, open_mix, open_tokenizer
from composer.mix.recipe import Recipe, Training
from composer.routed_trunk.profiles import Profiles
from composer.routed_trunk.strengths import OWNER_BYTES, strength_of
from composer.training.data import pack
from composer.training.fine_tune import finetune
from registry.catalog import queries
from registry.domains.embedders import load_embedder
from registry.domains.token_profile import TOKENIZER_FILE, put_profile
from registry.home import Registry
from registry.records import TokenProfile

LENGTH = 256
SEED_COLUMN, OWN = "seed", "own"
# Contenders that depend on the random seed. nexus and linear route alike without a fine-tune and before an extension,
# because P_r reproduces the solved embeddings, which are the linear router's rows. So linear is measured once.
DRAWN = ("dume", "nexus")


@dataclass
class Lab:
    """One kind of expert and the test text for its scores."""

    registry: Registry
    kind: str
    domains: Sequence[str]
    test_bytes: int
    changing_rows: int
    collected_rows: int  # rows of training text per DUME expert
    seed: LockedSeed = field(init=False)
    tokenizer: Any = field(init=False)
    texts: dict[str, HeldOut] = field(init=False)
    changing: ChangingText = field(init=False)

    def __post_init__(self) -> None:
        self.seed = lock_seed(queries.get_seed(self.registry, SEED))
        self.tokenizer = open_tokenizer(self.registry.blobs, self.seed.files)
        self.texts = {
            domain: windows(
                self.tokenizer,
                texts_of(self.registry.home, domain, "test"),
                max_bytes=self.test_bytes,
                length=LENGTH,
            )
            for domain in (*self.domains, GENERAL)
        }
        streams = {domain: stream_of(self.texts[domain]) for domain in self.domains}
        self.changing = changing_text(self.tokenizer, streams, rows=self.changing_rows, length=LENGTH)

    @cached_property
    def experts(self) -> list[LockedExpert]:
        """The experts of this kind, one per domain. Raises NotFoundError."""
        names = [f"{domain}-{self.kind}" for domain in self.domains]
        return [lock_expert(queries.get_expert(self.registry, name)) for name in names]

    def dense(self, expert: LockedExpert) -> Any:
        """Open an expert as a dense model."""
        return open_expert(self.registry, self.seed, expert)

    def open_seed(self) -> Any:
        """Open the dense seed."""
        return open_dense(self.registry, self.seed, self.seed.ffn, self.seed.trunk)

    def score(self, model: Any, choices: Choices | None = None) -> dict[str, Any]:
        """Return bits per byte on every text, on changing text also by distance.

        With `choices`, also return the share of tokens routed to their own domain's expert.
        """
        bits: dict[str, float] = {}
        own: dict[str, float] = {}
        for domain, text in self.texts.items():
            count = (
                _Count(choices, self.domains.index(domain)) if choices and domain in self.domains else None
            )
            bits[domain] = bits_per_byte(model, text, after_batch=count)
            own |= {domain: count.hits / count.all} if count is not None else {}
        changing = measure(model, self.changing, choices)
        return {"bits_per_byte": bits, "changing": changing, **({"own_share": own} if own else {})}


@dataclass
class _Count:
    """Count of a model's choices that are one expert; called after every batch."""

    choices: Choices
    place: int
    hits: int = 0
    all: int = 0

    def __call__(self) -> None:
        chosen = self.choices()
        self.hits += int((chosen == self.place).sum())
        self.all += chosen.numel()


def score_seed(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score the seed."""
    return lab.score(lab.open_seed())


def score_own(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score each dense expert on its own domain; general text has no expert and is omitted."""
    models = [lab.dense(expert) for expert in lab.experts]
    bits = {
        domain: bits_per_byte(model, lab.texts[domain])
        for domain, model in zip(lab.domains, models, strict=True)
    }
    return {
        "bits_per_byte": bits,
        "changing": summary(lab.changing, own_expert_nats(models, lab.changing)),
    }


def score_btm(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score Branch-Train-Merge: each row is sent to the dense expert nearest by domain embedding."""
    records = [queries.get_expert(lab.registry, expert.ref) for expert in lab.experts]
    means = np.stack([record.embedding.mean for record in records])
    choose = partial(btm.nearest, lab.tokenizer, load_embedder(lab.registry.embedder), means)
    router = btm.RequestRouter([partial(lab.dense, expert) for expert in lab.experts], choose)
    return lab.score(router, router.choices)


def score_dense_merging(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score the mean of all experts and the seed."""
    return lab.score(open_dense_merging(lab.registry, lab.seed, lab.experts))


def score_dume(lab: Lab, random_seed: int, *, tokens: int = 0) -> dict[str, Any]:
    """Score DUME with gates from training text; the random seed selects the text.

    A fine-tune by `tokens` trains all its weights except the gates, which are solved again afterwards.
    """
    started = time.process_time()
    names = [expert.ref for expert in lab.experts]
    mix = dume.open_untrained(lab.registry, SEED, names, trainable=tokens > 0)
    texts = {domain: texts_of(lab.registry.home, domain, "train") for domain in lab.domains}
    for domain in lab.domains:
        random.Random(f"{random_seed}/{domain}").shuffle(texts[domain])
    rows = {
        place: pack(lab.tokenizer, texts[domain], LENGTH, lab.collected_rows)
        for place, domain in enumerate(lab.domains)
    }
    gates = [dume.solve(sums) for sums in dume.collect(mix.model, rows)]
    if tokens:
        dume.set_gates(mix.model, gates)
        training = Training(tokens=tokens, random_seed=random_seed, train_router=False, load_balance=0.0)
        with TemporaryDirectory() as folder:
            finetune(mix, texts, {domain: 1 / len(texts) for domain in texts}, training, Path(folder))
        gates = [dume.solve(sums) for sums in dume.collect(mix.model, rows)]
    seconds = time.process_time() - started
    with dume.routed(mix.model, gates):
        return {**lab.score(mix.model, mixture_choices(mix.model)), "composing_seconds": seconds}


def score_product(router: str, lab: Lab, random_seed: int, *, tokens: int = 0) -> dict[str, Any]:
    """Score a merged trunk with one of the product's routers, fine-tuned by `tokens`."""
    started = time.process_time()
    manifest = composed(lab, router, random_seed, tokens=tokens)
    seconds = time.process_time() - started
    model = open_mix(lab.registry, manifest).model
    found = lab.score(model, mixture_choices(model))
    return {**found, "composing_seconds": seconds, "training": manifest.training}


def score_routed(
    warm_start: bool, left_out: int, lab: Lab, random_seed: int, *, tokens: int = 0
) -> dict[str, Any]:
    """Whole experts, fine-tuned by `tokens`; `warm_start` measures their strengths.

    The last `left_out` experts are not in the mix. An extension by them adds columns to its router and changes
    nothing else, so the whole mix is the extended one.
    """
    started = time.process_time()
    manifest = composed(
        lab,
        "nexus",
        random_seed,
        trunk_merge="routed",
        warm_start=warm_start,
        left_out=left_out,
        tokens=tokens,
    )
    seconds = time.process_time() - started
    model = open_mix(lab.registry, manifest).model
    found = lab.score(model, mixture_choices(model))
    return {**found, "composing_seconds": seconds, "training": manifest.training}


def composed(lab: Lab, router: str, random_seed: int, **settings: Any) -> Manifest:
    """The mix of all experts, not published."""
    return assemble(lab.registry, resolve(lab.registry, recipe_of(lab, router, random_seed, **settings)))[0]


def recipe_of(
    lab: Lab,
    router: str,
    random_seed: int,
    *,
    trunk_merge: str = "regmean",
    warm_start: bool = True,
    left_out: int = 0,
    tokens: int = 0,
) -> Recipe:
    """The recipe of a mix of all experts but the last `left_out`."""
    return Recipe.parse(
        {
            "name": "real",
            "seed": SEED,
            "experts": [expert.ref for expert in lab.experts][: len(lab.experts) - left_out],
            "router": router,
            "trunk_merge": trunk_merge,
            "training": Training(tokens=tokens, warm_start=warm_start, random_seed=random_seed),
        }
    )


def score_signatures(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Whole experts whose text is private: each owner shares a token profile and a strength, found on that text."""
    composition = resolve(lab.registry, recipe_of(lab, "nexus", random_seed, trunk_merge="routed"))
    experts = [_signed(lab, expert) for expert in composition.members]
    lock = composition.lock.model_copy(update={"experts": experts})
    manifest = assemble(lab.registry, replace(composition, lock=lock, members=experts))[0]
    model = open_mix(lab.registry, manifest).model
    found = lab.score(model, mixture_choices(model))
    return {**found, "training": manifest.training}


def _signed(lab: Lab, expert: LockedExpert) -> LockedExpert:
    """The expert without its text, as its owner would share it."""
    domain = expert.ref.rpartition("-")[0]
    private = [text for part in ("train", "choice") for text in texts_of(lab.registry.home, domain, part)]
    counted = Profiles(lab.registry, lab.seed).count(private)
    weights = expert_weights(lab.registry.blobs, expert)
    strength = strength_of(lab.registry, lab.seed, weights, private, expert.ref, max_bytes=OWNER_BYTES)
    profile = TokenProfile(lab.seed.files[TOKENIZER_FILE], counted.unigrams, counted.bigrams, strength)
    return expert.model_copy(update={"sample": None, "profile": put_profile(lab.registry.blobs, profile)})


CONTENDERS: Mapping[str, Callable[[Lab, int], dict[str, Any]]] = {
    SEED_COLUMN: score_seed,
    OWN: score_own,
    "btm": score_btm,
    "dume": score_dume,
    "dense merging": score_dense_merging,
    "nexus": partial(score_product, "nexus"),
    "linear": partial(score_product, "linear"),
    "linear, 50k tokens": partial(score_product, "linear", tokens=50_000),
    "dume, 50k tokens": partial(score_dume, tokens=50_000),
    "routed": partial(score_routed, True, 0),
    "routed at 1": partial(score_routed, False, 0),
    "routed before the last": partial(score_routed, True, 1),
    "routed, signatures alone": score_signatures,
    "routed, 50k tokens": partial(score_routed, True, 0, tokens=50_000),
}
