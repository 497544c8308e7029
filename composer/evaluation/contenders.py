"""Models in a comparison: a mix, its seed, its experts, dense merging, and other mixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from composer.errors import MissingTextError
from composer.mix.lock import LockedExpert, LockedSeed
from composer.mix.opening import (
    Manifest,
    build_dense,
    computing_dtype,
    expert_weights,
    find_mix,
    open_dense,
    open_expert,
    open_model,
    seed_config,
    seed_weights,
)
from registry.catalog import queries
from registry.home import Registry

if TYPE_CHECKING:
    from composer.bits_per_byte import HeldOut, ScoreCache

SEED, EXPERT, DENSE_MERGING, MIX, ORACLE = "seed", "expert", "dense_merging", "mix", "oracle"
BTM, DUME, MEAN = "btm", "dume", "mean"
DUME_ROWS, DUME_LENGTH = 32, 256  # rows of text per domain from which its gates are solved
CHANGING = "changing domain"  # the name of its row

# Columns of an evaluation in display order, with their titles; the title of another mix is its reference.
TITLES: Mapping[str, str] = {
    SEED: "seed",
    EXPERT: "own expert",
    BTM: "nearest expert",
    DENSE_MERGING: "dense merging",
    DUME: "DUME",
    MIX: "this mix",
    ORACLE: "this mix, own expert forced",
}


class Evaluation(TypedDict, total=False):
    """The measurements of a mix, recorded by `evaluate` and `harness.evaluate_tasks`.

    Columns are the keys of TITLES and the references of other mixes. A domain has the name of its expert.
    """

    mix: str
    text: dict[str, Any]  # by domain: the signature of the scored text
    bits_per_byte: dict[str, dict[str, float]]  # by domain and column
    mean: dict[str, float]  # by column, over the domains
    changing: dict[str, Any]  # text that changes domain: bits per byte by column, and the mix's by distance
    routing: dict[str, dict[str, float]]  # by domain and expert: share of tokens
    routing_by_layer: dict[str, dict[str, list[float]]]
    experts_per_token: dict[str, float]  # by domain
    active_experts: list[str]  # only if other experts were masked; such an evaluation is not recorded
    tasks: dict[str, Any]  # by task of lm-evaluation-harness


def score_rows(evaluation: Mapping[str, Any]) -> tuple[list[str], dict[str, list[float | None]]]:
    """Return the columns of an evaluation's table, and its rows of bits per byte by name; the last is the mean.

    Text that changes domain, where it was measured, has a row of its own and no part in the mean.
    """
    scores = dict(evaluation["bits_per_byte"])
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    columns.sort(key=lambda column: [*TITLES].index(column) if column in TITLES else len(TITLES))
    if "changing" in evaluation:
        scores[CHANGING] = evaluation["changing"]["bits_per_byte"]
    scores[MEAN] = evaluation["mean"]
    return columns, {name: [row.get(column) for column in columns] for name, row in scores.items()}


@dataclass(frozen=True)
class Contender:
    """One model: the column of its scores, the digests of its weights, and a function that opens it."""

    column: str
    weights: Sequence[str]
    open: Callable[[], Any]

    def scores(self, texts: Mapping[str, HeldOut], cache: ScoreCache) -> Iterator[tuple[str, float]]:
        """Yield each domain with its bits per byte. The model is opened at most once, only if a score is missing."""
        from composer.bits_per_byte import bits_per_byte

        opened: list[Any] = []

        def compute(text: HeldOut) -> float:
            opened.append(opened[0] if opened else self.open())
            return bits_per_byte(opened[0], text)

        for domain, text in texts.items():
            yield domain, cache.get(self.weights, text, partial(compute, text))


def seed_contender(registry: Registry, seed: LockedSeed) -> Contender:
    """Return the seed as a contender."""
    return Contender(SEED, [seed.ffn, seed.trunk], partial(open_dense, registry, seed, seed.ffn, seed.trunk))


def expert_contender(
    registry: Registry, seed: LockedSeed, expert: LockedExpert, column: str = EXPERT
) -> Contender:
    """Return one dense expert as a contender."""
    return Contender(column, expert.weights, partial(open_expert, registry, seed, expert))


def dense_merging(registry: Registry, seed: LockedSeed, experts: Sequence[LockedExpert]) -> Contender | None:
    """Return the paper's dense merging, the mean of all experts and the seed; None if their FFN widths differ."""
    width = seed_config(registry.blobs, seed)["intermediate_size"]
    if {expert.ffn_width for expert in experts} != {width}:
        return None
    parts = sorted(" ".join(expert.weights) for expert in experts)
    weights = ["dense merging", seed.ffn, seed.trunk, *parts]
    return Contender(DENSE_MERGING, weights, partial(open_dense_merging, registry, seed, experts))


def nearest_expert(registry: Registry, manifest: Manifest) -> Contender | None:
    """Return the ensemble that sends each row to one dense expert (baselines/btm.py).

    Returns None if the registry's embedder is not the one that embedded the members' domains.
    """
    import numpy as np

    from composer.evaluation.baselines import btm
    from composer.mix.opening import open_tokenizer
    from registry.domains.embedders import load_embedder

    experts = [member.expert for member in manifest.members]
    _, records = queries.get_parts(registry, manifest.seed.name, [expert.ref for expert in experts])
    embedder = load_embedder(registry.embedder)
    if any(record.embedding.embedder != embedder.id for record in records):
        return None
    means = np.stack([record.embedding.mean for record in records])
    opens = [expert_contender(registry, manifest.seed, expert).open for expert in experts]

    def opened() -> Any:
        tokenizer = open_tokenizer(registry.blobs, manifest.seed.files)
        return btm.RequestRouter(opens, partial(btm.nearest, tokenizer, embedder, means))

    parts = [" ".join([*expert.weights, expert.embedding]) for expert in experts]
    return Contender(BTM, [BTM, str(btm.FIRST_TOKENS), manifest.embedder, *parts], opened)


def dume_baseline(registry: Registry, manifest: Manifest) -> Contender:
    """Return DUME (arXiv 2603.29765) of the mix's experts: mean trunk, closed-form gates (baselines/dume.py).

    Its gates are solved from the first rows of each expert's text. Raises MissingTextError if an expert shared none.
    """
    from composer.evaluation.baselines import dume
    from composer.mix.opening import open_tokenizer
    from composer.training.data import pack
    from registry.domains.documents import load_documents

    experts = [member.expert for member in manifest.members]
    closed = [expert.ref for expert in experts if expert.sample is None]
    if closed:
        raise MissingTextError(
            f"DUME solves its gates from the text of every expert, and {', '.join(closed)} shared none: "
            "evaluate without --dume"
        )

    def opened() -> Any:
        mix = dume.open_untrained(registry, manifest.seed.name, [expert.ref for expert in experts])
        tokenizer = open_tokenizer(registry.blobs, manifest.seed.files)
        rows = {
            place: pack(tokenizer, load_documents(registry.blobs, str(expert.sample)), DUME_LENGTH, DUME_ROWS)
            for place, expert in enumerate(experts)
        }
        gates = [dume.solve(sums) for sums in dume.collect(mix.model, rows)]
        dume.set_gates(mix.model, gates)
        return mix.model

    parts = [" ".join([*expert.weights, str(expert.sample)]) for expert in experts]
    return Contender(DUME, [DUME, f"{DUME_ROWS} × {DUME_LENGTH}", *parts], opened)


def mix_contender(registry: Registry, ref: str, column: str = MIX) -> Contender:
    """Return a mix as a contender. Raises NotFoundError, IntegrityError, MixFormatError."""
    record, manifest = find_mix(registry, ref)
    return Contender(column, [record.manifest], lambda: open_model(registry, manifest))


def other_mixes(registry: Registry, refs: Sequence[str]) -> list[Contender]:
    """Return other mixes as contenders; each column is the mix's reference.

    Raises NotFoundError, IntegrityError, MixFormatError.
    """
    return [mix_contender(registry, ref, queries.get_mix(registry, ref).ref) for ref in refs]


def domains(manifest: Manifest) -> dict[str, LockedExpert]:
    """Return the members by domain name: the expert's name, with its version if two members share the name."""
    names = [member.expert.ref.split("@")[0] for member in manifest.members]
    return {
        name if names.count(name) == 1 else member.expert.ref: member.expert
        for name, member in zip(names, manifest.members, strict=True)
    }


def open_dense_merging(registry: Registry, seed: LockedSeed, experts: Sequence[LockedExpert]) -> Any:
    """Open a dense model whose every parameter is the mean over all experts and the seed."""
    from composer.tensors.weights import Mean

    blobs = registry.blobs
    models = [seed_weights(blobs, seed), *(expert_weights(blobs, expert) for expert in experts)]
    mean = {name: Mean([model[name] for model in models]) for name in models[0]}
    return build_dense(seed_config(blobs, seed), mean, computing_dtype(seed))
