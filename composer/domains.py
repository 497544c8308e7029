"""The domains of a mix as the router sees them: standardised vectors, and chunks to resample them from.

Shape suffixes: M domain-embedding width, N domains, C chunks of a domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from composer.recipe import LockedExpert
from composer.weights import map_tensors
from registry import catalog, documents, embedding
from registry.home import Registry

NEARLY_EQUAL = 0.98


@dataclass(frozen=True)
class Standard:
    """Puts domain vectors around the mix's own mean and on the sphere of radius √M (unit variance per coordinate).

    Embedders put all text in a narrow cone; without the shift, vectors of different domains are nearly parallel.
    The vector of a few chunks lies much farther from the mean than that of a domain: without the sphere, P_r,
    which is quadratic, would send it to an embedding many times too long.
    It is fixed when a mix is composed and kept when it is extended, so no expert embedding jumps.
    """

    center: torch.Tensor  # [M]
    scale: torch.Tensor  # []

    @classmethod
    def of(cls, means: torch.Tensor) -> Standard:
        """From the members' mean vectors [N, M]."""
        center = means.mean(dim=0)
        spread = (means - center).norm(dim=1).pow(2).mean().sqrt()
        return cls(center, torch.tensor(math.sqrt(means.shape[1])) / spread.clamp(min=1e-3))

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Standardise vectors [..., M]; the center itself goes to zero."""
        shifted = (vectors - self.center) * self.scale
        length = shifted.norm(dim=-1, keepdim=True)
        return shifted * (math.sqrt(vectors.shape[-1]) / length.clamp(min=1e-3))


@dataclass(frozen=True)
class Domain:
    """One member's domain. `vectors` are those of its chunks, or its centroids where no text was given."""

    name: str
    mean: torch.Tensor  # [M]
    vectors: torch.Tensor  # [C, M]
    documents: list[str]

    @property
    def has_text(self) -> bool:
        """Whether its contributor shared a sample."""
        return bool(self.documents)

    def chunks(self) -> list[str]:
        """The chunks of text whose vectors are `vectors`, in the same order."""
        return embedding.chunk_documents(self.documents)


def load_domain(registry: Registry, expert: LockedExpert) -> Domain:
    """An expert's domain. Raises NotFoundError, IntegrityError."""
    recorded = catalog.get_expert(registry, expert.ref).embedding
    vectors = torch.from_numpy(recorded.centroids.copy())
    if expert.chunk_vectors is not None:
        vectors = map_tensors(registry.blobs.path(expert.chunk_vectors))["vectors"].clone()
    text = documents.load_documents(registry.blobs, expert.sample) if expert.sample is not None else []
    return Domain(expert.ref, torch.from_numpy(recorded.mean.copy()), vectors, text)


def nearly_equal(domains: Sequence[Domain]) -> list[str]:
    """A warning for each pair of domains between which no router can choose."""
    warnings = []
    for i, one in enumerate(domains):
        for other in domains[i + 1 :]:
            cosine = torch.cosine_similarity(one.mean, other.mean, dim=0).item()
            if cosine > NEARLY_EQUAL:
                warnings.append(
                    f"the domains of {one.name} and {other.name} are nearly equal (cosine {cosine:.3f}): "
                    "the router can hardly tell them apart"
                )
    return warnings
