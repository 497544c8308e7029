"""Kinds of text: clusters of chunks by their embedder's vectors, and a sample that has every kind in its share.

Shape suffixes: C chunks, M domain-embedding width, K clusters.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

KINDS = 16
ITERATIONS = 15


def stratified(vectors_CM: torch.Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Places of `count` chunks, or of all: as many of each kind as its share of the text.

    Drawn anywhere, a few chunks miss kinds and overstate others (a domain of Python is code, and tables of codecs).
    """
    if count >= len(vectors_CM):
        return list(range(len(vectors_CM)))
    kinds_C = k_means(vectors_CM, min(KINDS, count), generator)
    ordered = torch.argsort(kinds_C, stable=True)
    # One place drawn from each of `count` equal parts of the chunks in the order of their kinds.
    drawn = (torch.arange(count) + torch.rand(count, generator=generator)) * len(ordered) / count
    return [int(place) for place in ordered[drawn.long().clamp(max=len(ordered) - 1)]]


def k_means(vectors_CM: torch.Tensor, clusters: int, generator: torch.Generator) -> torch.Tensor:
    """The cluster of each vector [C], by cosine after centring."""
    unit_CM = F.normalize(vectors_CM - vectors_CM.mean(dim=0), dim=1)
    centers_KM = _spread(unit_CM, clusters, generator)
    for _ in range(ITERATIONS):
        member_CK = F.one_hot((unit_CM @ centers_KM.T).argmax(dim=1), clusters).to(unit_CM)
        # An empty cluster keeps its center.
        centers_KM = F.normalize(
            torch.where(member_CK.any(0)[:, None], member_CK.T @ unit_CM, centers_KM), dim=1
        )
    return (unit_CM @ centers_KM.T).argmax(dim=1)


def _spread(unit_CM: torch.Tensor, clusters: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++: first centers drawn far from those already drawn."""
    chosen = [int(torch.randint(len(unit_CM), (1,), generator=generator))]
    while len(chosen) < clusters:
        nearest_C = (unit_CM @ unit_CM[chosen].T).max(dim=1).values
        chosen.append(int(torch.multinomial((1 - nearest_C).clamp(min=1e-6), 1, generator=generator)))
    return unit_CM[chosen]
