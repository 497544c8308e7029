"""Pseudo-domains: clusters of chunks that teach P_r more of embedding space than the members' few points.

Shape suffixes: C chunks, M domain-embedding width, K clusters.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

CLUSTERS = (8, 16, 32, 64)
MIN_CHUNKS = 3
ITERATIONS = 15
GROUP_SIZES = (1, 4, 16, 64)


def pseudo_domains(vectors_CM: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """Clusters at several grains, across all domains; each as the indices of its chunks."""
    found = []
    for clusters in CLUSTERS:
        if clusters * MIN_CHUNKS <= len(vectors_CM):
            nearest_C = k_means(vectors_CM, clusters, generator)
            groups = [(nearest_C == k).nonzero()[:, 0] for k in range(clusters)]
            found += [group for group in groups if len(group) >= MIN_CHUNKS]
    return found


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


def resampled(vectors_CM: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The mean of a few of a domain's chunk vectors [M]: another vector that means the same domain."""
    size = GROUP_SIZES[int(torch.randint(len(GROUP_SIZES), (1,), generator=generator))]
    picked = torch.randint(len(vectors_CM), (size,), generator=generator)
    return vectors_CM[picked].mean(dim=0)
