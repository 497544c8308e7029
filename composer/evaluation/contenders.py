"""The models that a mix is compared with: its seed, its experts, dense merging, itself and other mixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from composer.mix.lock import LockedExpert, LockedSeed
from composer.mix.opening import (
    Manifest,
    build_dense,
    find_mix,
    open_dense,
    open_mix,
    seed_config,
)
from registry.catalog import queries
from registry.home import Registry

if TYPE_CHECKING:
    from composer.bits_per_byte import HeldOut, ScoreCache

SEED, EXPERT, DENSE_MERGING, MIX, ORACLE = "seed", "expert", "dense_merging", "mix", "oracle"

# The columns of an evaluation in their order, by what a reader calls them; another mix is called by its reference.
TITLES: Mapping[str, str] = {
    SEED: "seed",
    EXPERT: "own expert",
    DENSE_MERGING: "dense merging",
    MIX: "this mix",
    ORACLE: "this mix, own expert forced",
}


class Evaluation(TypedDict, total=False):
    """The measurements of a mix, as `evaluate` and `harness.evaluate_tasks` record them.

    Columns are those of TITLES and the references of other mixes; a domain is named after its expert.
    """

    mix: str
    text: dict[str, Any]  # by domain: the signature of the text that was scored
    bits_per_byte: dict[str, dict[str, float]]  # by domain and column
    mean: dict[str, float]  # by column, over the domains
    routing: dict[str, dict[str, float]]  # by domain and expert: share of tokens
    routing_by_layer: dict[str, dict[str, list[float]]]
    experts_per_token: dict[str, float]  # by domain
    active_experts: list[str]  # only where others were masked; such an evaluation is not recorded
    tasks: dict[str, Any]  # by task of lm-evaluation-harness


@dataclass(frozen=True)
class Contender:
    """One model: the column of its figures, what identifies its weights, and how it is opened."""

    column: str
    weights: Sequence[str]
    open: Callable[[], Any]

    def scores(self, texts: Mapping[str, HeldOut], cache: ScoreCache) -> Iterator[tuple[str, float]]:
        """Each domain with its bits per byte. The model is opened, once, only if a score is not known yet."""
        from composer.bits_per_byte import bits_per_byte

        opened: list[Any] = []

        def compute(text: HeldOut) -> float:
            opened.append(opened[0] if opened else self.open())
            return bits_per_byte(opened[0], text)

        for domain, text in texts.items():
            yield domain, cache.get(self.weights, text, partial(compute, text))


def seed_contender(registry: Registry, seed: LockedSeed) -> Contender:
    """The seed."""
    return Contender(SEED, [seed.ffn, seed.trunk], partial(open_dense, registry, seed, seed.ffn, seed.trunk))


def expert_contender(
    registry: Registry, seed: LockedSeed, expert: LockedExpert, column: str = EXPERT
) -> Contender:
    """One dense expert."""
    opened = partial(open_dense, registry, seed, expert.ffn, expert.trunk, ffn_width=expert.ffn_width)
    return Contender(column, [expert.ffn, expert.trunk], opened)


def dense_merging(registry: Registry, seed: LockedSeed, experts: Sequence[LockedExpert]) -> Contender | None:
    """The paper's dense merging, the mean of all experts and the seed; None where their FFN widths differ."""
    width = seed_config(registry.blobs, seed)["intermediate_size"]
    if {expert.ffn_width for expert in experts} != {width}:
        return None
    parts = sorted(f"{expert.ffn} {expert.trunk}" for expert in experts)
    weights = ["dense merging", seed.ffn, seed.trunk, *parts]
    return Contender(DENSE_MERGING, weights, partial(open_dense_merging, registry, seed, experts))


def mix_contender(registry: Registry, ref: str, column: str = MIX) -> Contender:
    """A mix. Raises NotFoundError, IntegrityError, MixFormatError."""
    record, manifest = find_mix(registry, ref)
    return Contender(column, [record.manifest], lambda: open_mix(registry, manifest).model)


def other_mixes(registry: Registry, refs: Sequence[str]) -> list[Contender]:
    """Other mixes, in columns of their references. Raises NotFoundError, IntegrityError, MixFormatError."""
    return [mix_contender(registry, ref, queries.get_mix(registry, ref).ref) for ref in refs]


def domains(manifest: Manifest) -> dict[str, LockedExpert]:
    """Members by the name of their domain: the expert's name, with its version where two share a name."""
    names = [member.expert.ref.split("@")[0] for member in manifest.members]
    return {
        name if names.count(name) == 1 else member.expert.ref: member.expert
        for name, member in zip(names, manifest.members, strict=True)
    }


def open_dense_merging(registry: Registry, seed: LockedSeed, experts: Sequence[LockedExpert]) -> Any:
    """One dense model, in every parameter the mean of all experts and the seed."""
    import torch

    from composer.tensors.torch_blobs import TORCH_DTYPES, map_tensors

    path = registry.blobs.path
    models = [(seed.ffn, seed.trunk), *((expert.ffn, expert.trunk) for expert in experts)]
    mapped = [map_tensors(path(ffn)) | map_tensors(path(trunk)) for ffn, trunk in models]
    merged = {}
    for name, tensor in mapped[0].items():
        total = torch.zeros(tensor.shape)
        for tensors in mapped:
            total += tensors[name]
        merged[name] = total / len(mapped)
    return build_dense(seed_config(registry.blobs, seed), merged, TORCH_DTYPES[seed.dtype])
