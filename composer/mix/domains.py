"""Domains of a mix for its router: standardised domain vectors, and the text chunks from which they are resampled.

Composing uses numpy and training uses torch. `Standard` works with both, because it uses only common operations.
Shape suffixes: M domain-embedding width, N domains, C chunks of a domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from composer.mix.lock import LockedExpert
from registry.blobs import BlobStore
from registry.domains import documents, embedding
from registry.records import DomainEmbedding

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

NEARLY_EQUAL = 0.98


@dataclass(frozen=True)
class Standard(Generic[Array]):
    """Standardisation of domain vectors: centred at the mix's mean and scaled to the sphere of radius √M.

    On this sphere, the variance per coordinate is one on average.

    Centring: embedders map all text into a narrow cone, so uncentred vectors of different domains are nearly parallel.
    Scaling: the vector of a few chunks is much farther from the mean than that of a domain. P_r is quadratic, so
    without scaling it would project such a vector to an embedding that is many times too long.

    The standardisation is fixed when a mix is composed. Extensions keep it, so no expert embedding jumps.
    """

    center: Array  # [M]
    scale: Array  # []

    @classmethod
    def of(cls, means: Array) -> Standard[Array]:
        """Compute the standardisation from the members' mean vectors [N, M]."""
        center = means.mean(0)
        spread = ((means - center) ** 2).sum(-1).mean() ** 0.5
        return cls(center, math.sqrt(means.shape[1]) / spread.clip(min=1e-3))

    def __call__(self, vectors: Array) -> Array:
        """Standardise vectors [..., M]; the center itself becomes zero."""
        shifted = (vectors - self.center) * self.scale
        length = (shifted**2).sum(-1)[..., None] ** 0.5
        return shifted * (math.sqrt(vectors.shape[-1]) / length.clip(min=1e-3))


@dataclass(frozen=True)
class Domain:
    """One member's domain. `vectors` are those of its chunks, or its centroids if there are no chunk vectors."""

    name: str
    mean: torch.Tensor  # [M]
    vectors: torch.Tensor  # [C, M]
    documents: list[str]

    @property
    def has_text(self) -> bool:
        """Whether the contributor shared a sample of text."""
        return bool(self.documents)

    def chunks(self) -> list[str]:
        """Return the chunks of text in the order of `vectors`."""
        return embedding.chunk_documents(self.documents, limit=len(self.vectors))


def load_domain(blobs: BlobStore, expert: LockedExpert, embedded: DomainEmbedding) -> Domain:
    """Load an expert's domain with its vectors and text. Raises NotFoundError, IntegrityError."""
    import torch

    from composer.tensors.torch_blobs import map_tensors

    vectors = torch.from_numpy(embedded.centroids.copy())
    if expert.chunk_vectors is not None:
        vectors = map_tensors(blobs.path(expert.chunk_vectors))["vectors"].clone()
    text = documents.load_documents(blobs, expert.sample) if expert.sample is not None else []
    return Domain(expert.ref, torch.from_numpy(embedded.mean.copy()), vectors, text)


def nearly_equal(experts: Sequence[LockedExpert], means: np.ndarray) -> list[str]:
    """Return a warning for each pair of experts whose domains have nearly parallel mean vectors; means [N, M]."""
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    return [
        f"the domains of {experts[i].ref} and {experts[j].ref} are nearly equal (cosine {cosine:.3f}): "
        "the router can hardly distinguish them"
        for (i, j), cosine in np.ndenumerate(directions @ directions.T)
        if i < j and cosine > NEARLY_EQUAL
    ]
