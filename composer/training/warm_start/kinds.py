"""Types of text: clusters of chunks by their embeddings, and a sample stratified by cluster.

Shape suffixes: C chunks, M domain-embedding width, K clusters.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

KINDS = 16
ITERATIONS = 15


def stratified(vectors_CM: torch.Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Draw the indices of `count` chunks (all, if there are fewer), from each cluster in proportion to its size.

    A small uniform sample would miss some types of text and overstate others. For example, a domain of Python
    contains code and also tables of codecs.
    """
    if count >= len(vectors_CM):
        return list(range(len(vectors_CM)))
    kinds_C = k_means(vectors_CM, min(KINDS, count), generator)
    ordered = torch.argsort(kinds_C, stable=True)
    # Order the chunks by cluster, cut this order into `count` equal parts and draw one chunk from each part.
    drawn = (torch.arange(count) + torch.rand(count, generator=generator)) * len(ordered) / count
    return [int(place) for place in ordered[drawn.long().clamp(max=len(ordered) - 1)]]


def k_means(vectors_CM: torch.Tensor, clusters: int, generator: torch.Generator) -> torch.Tensor:
    """Assign each vector to a cluster [C], by cosine similarity after centring."""
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
    """Choose the initial centers as in k-means++: each is drawn with preference for points far from earlier ones."""
    chosen = [int(torch.randint(len(unit_CM), (1,), generator=generator))]
    while len(chosen) < clusters:
        nearest_C = (unit_CM @ unit_CM[chosen].T).max(dim=1).values
        chosen.append(int(torch.multinomial((1 - nearest_C).clamp(min=1e-6), 1, generator=generator)))
    return unit_CM[chosen]
