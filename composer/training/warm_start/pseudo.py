"""Training points of P_r: the members' domain vectors, resampled versions of them, and pseudo-domains.

Pseudo-domains are clusters of chunks. They cover more of the embedding space than the few vectors of the members.

Shape suffixes: C chunks, M domain-embedding width, K clusters, H width of the states, D solved domain vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from composer.mix.domains import Domain
from composer.training.warm_start.kinds import k_means
from composer.training.warm_start.states import Chunks, Observed

CLUSTERS = (8, 16, 32, 64)
MIN_CHUNKS = 3
GROUP_SIZES = (1, 4, 16, 64)
RESAMPLED_PER_MEMBER = 16
RESAMPLED_WEIGHT = 4.0


@dataclass(frozen=True)
class Lessons:
    """Domain vectors [D, M] with weights [D].

    The first len(places) vectors belong to members, whose indices are `places`. The others belong to `clusters`.
    """

    vectors_DM: torch.Tensor
    weights_D: torch.Tensor
    places: list[int]
    clusters: list[torch.Tensor]

    def targets(
        self, observed: Observed, gates_NH: torch.Tensor, inverse_HH: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the target embedding of each vector [D, H]: the member's embedding, or τ · C⁻¹ μ of the cluster."""
        means = [observed.mean_of(chunks) for chunks in self.clusters]
        ours = [scale * mean_H @ inverse_HH for mean_H in means]
        return torch.stack([*(gates_NH[place] for place in self.places), *ours])


def lessons(domains: Sequence[Domain], chunks: Chunks, generator: torch.Generator) -> Lessons:
    """Build the training points, which are the same for all blocks."""
    text = [j for j, domain in enumerate(domains) if domain.has_text]
    vectors, weights, places = [], [], []
    for j in text:
        again = [resampled(domains[j].vectors, generator) for _ in range(RESAMPLED_PER_MEMBER)]
        vectors += [domains[j].mean, *again]
        weights += [len(chunks.owner_R) / len(text)] + [RESAMPLED_WEIGHT] * len(again)
        places += [j] * (1 + len(again))
    clusters = pseudo_domains(chunks.vectors_RM, generator)
    vectors += [chunks.vectors_RM[cluster].mean(dim=0) for cluster in clusters]
    weights += [len(cluster) ** 0.5 for cluster in clusters]
    return Lessons(torch.stack(vectors), torch.tensor(weights), places, clusters)


def pseudo_domains(vectors_CM: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """Cluster the chunks of all domains at several granularities; each cluster is a tensor of chunk indices."""
    found = []
    for clusters in CLUSTERS:
        if clusters * MIN_CHUNKS <= len(vectors_CM):
            nearest_C = k_means(vectors_CM, clusters, generator)
            groups = [(nearest_C == k).nonzero()[:, 0] for k in range(clusters)]
            found += [group for group in groups if len(group) >= MIN_CHUNKS]
    return found


def resampled(vectors_CM: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Average a few random chunk vectors of a domain [M], as an alternative vector of the same domain."""
    size = GROUP_SIZES[int(torch.randint(len(GROUP_SIZES), (1,), generator=generator))]
    picked = torch.randint(len(vectors_CM), (size,), generator=generator)
    return vectors_CM[picked].mean(dim=0)
