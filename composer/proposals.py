"""Proposals of experts for a mix, from a handful of samples: relevant, and different from each other.

The choice follows K-shot selection (arXiv 2408.15915), with domain embeddings in the place of measured losses. A set
of experts serves a sample as well as its best member does. So each step adds the expert that raises the mean over the
samples most, plus DIVERSITY times its distance from the nearest chosen one. m is the embedder's dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from registry.catalog.queries import search
from registry.errors import InvalidInputError
from registry.home import Registry
from registry.records import ExpertRecord

CANDIDATES_A_SAMPLE = 24
DIVERSITY = 0.1
DUPLICATE = 0.97  # similarity of two domains above which their experts are near-duplicates
_LISTED = 3


@dataclass(frozen=True)
class Proposal:
    """A proposed expert: its best score, the samples that it serves best (from 0), and the reason in words.

    `duplicates` are candidates with nearly the same domain, which were not proposed.
    """

    expert: ExpertRecord
    score: float
    samples: tuple[int, ...]
    duplicates: tuple[str, ...]
    reason: str


def propose(
    registry: Registry, samples: Sequence[np.ndarray], *, seed: str, limit: int, least: float
) -> list[Proposal]:
    """Return at most `limit` experts of a seed for the vectors [m] of samples, in the order of their choice.

    Every sample has its best expert among them if there are enough places. An expert without a score of `least` for
    any sample, or with nearly the domain of a chosen one, is not proposed.

    Raises InvalidInputError without samples or with a limit below 1, and the errors of `catalog.queries.search`.
    """
    if not samples or limit < 1:
        raise InvalidInputError(
            f"{len(samples)} samples and a limit of {limit}: expected at least one of each"
        )
    experts: dict[str, ExpertRecord] = {}
    scores: dict[str, list[float]] = {}
    for number, sample in enumerate(samples):
        for hit in search(registry, sample, seed=seed, limit=CANDIDATES_A_SAMPLE, passages=0):
            experts[hit.expert.ref] = hit.expert
            # A sample for which an expert is no candidate counts as not served by it.
            scores.setdefault(hit.expert.ref, [0.0] * len(samples))[number] = hit.score
    table = {ref: np.array(row) for ref, row in scores.items() if max(row) >= least}
    chosen, duplicates = _choose(experts, table, limit)
    owners = _owners(chosen, table, len(samples))
    return [
        Proposal(
            expert=experts[ref],
            score=float(table[ref].max()),
            samples=owners[ref],
            duplicates=tuple(duplicates[ref]),
            reason=_reason(owners[ref], duplicates[ref], len(samples)),
        )
        for ref in chosen
    ]


def similarity(first: ExpertRecord, second: ExpertRecord) -> float:
    """Return how similar two domains are: the weighted mean cosine of each one's centroids to the other's nearest."""
    cosines = first.embedding.centroids @ second.embedding.centroids.T
    one = float(cosines.max(axis=1) @ first.embedding.centroid_weights)
    other = float(cosines.max(axis=0) @ second.embedding.centroid_weights)
    return min(one, other)


def _choose(
    experts: Mapping[str, ExpertRecord], table: Mapping[str, np.ndarray], limit: int
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the chosen references in order, and by each of them its near-duplicates."""
    left = sorted(table)
    nearest = dict.fromkeys(left, 0.0)  # similarity to the nearest chosen expert
    chosen: list[str] = []
    duplicates: dict[str, list[str]] = {}
    served = np.zeros(len(next(iter(table.values()), [])))
    while left and len(chosen) < limit:
        raised = {ref: float(np.maximum(table[ref] - served, 0).mean()) for ref in left}
        if chosen:
            for ref in left:
                raised[ref] += DIVERSITY * float(table[ref].max()) * (1 - nearest[ref])
        best = max(left, key=raised.__getitem__)
        left.remove(best)
        chosen.append(best)
        duplicates[best] = []
        served = np.maximum(served, table[best])
        for ref in list(left):
            alike = similarity(experts[best], experts[ref])
            nearest[ref] = max(nearest[ref], alike)
            if alike >= DUPLICATE:
                duplicates[best].append(ref)
                left.remove(ref)
    return chosen, duplicates


def _owners(
    chosen: Sequence[str], table: Mapping[str, np.ndarray], samples: int
) -> dict[str, tuple[int, ...]]:
    """Return by expert the samples that it serves better than every other chosen one."""
    best = [max(chosen, key=lambda ref: table[ref][number]) if chosen else "" for number in range(samples)]
    return {ref: tuple(number for number in range(samples) if best[number] == ref) for ref in chosen}


def _reason(samples: Sequence[int], duplicates: Sequence[str], count: int) -> str:
    if len(samples) == count:
        words = "Nearest to your sample" if count == 1 else "Nearest to all of your samples"
    elif samples:
        listed = ", ".join(str(number + 1) for number in samples[:_LISTED])
        more = " and more" if len(samples) > _LISTED else ""
        words = f"Nearest to sample {listed}{more}"
    else:
        words = "Related to your samples, and different from the other experts"
    if not duplicates:
        return words
    names = ", ".join(duplicates[:_LISTED]) + (" and more" if len(duplicates) > _LISTED else "")
    return f"{words}; nearly the same domain: {names}"
