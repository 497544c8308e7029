"""The domains of a mix as the router sees them: standardised vectors, and chunks to resample them from.

Numpy serves composing and torch serves learning: `Standard` is written with the operations that both have.
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
    """Puts domain vectors around the mix's own mean and on the sphere of radius √M (unit variance per coordinate).

    Embedders put all text in a narrow cone; without the shift, vectors of different domains are nearly parallel.
    The vector of a few chunks lies much farther from the mean than that of a domain: without the sphere, P_r,
    which is quadratic, would send it to an embedding many times too long.
    It is fixed when a mix is composed and kept when it is extended, so no expert embedding jumps.
    """

    center: Array  # [M]
    scale: Array  # []

    @classmethod
    def of(cls, means: Array) -> Standard[Array]:
        """From the members' mean vectors [N, M]."""
        center = means.mean(0)
        spread = ((means - center) ** 2).sum(-1).mean() ** 0.5
        return cls(center, math.sqrt(means.shape[1]) / spread.clip(min=1e-3))

    def __call__(self, vectors: Array) -> Array:
        """Standardise vectors [..., M]; the center itself goes to zero."""
        shifted = (vectors - self.center) * self.scale
        length = (shifted**2).sum(-1)[..., None] ** 0.5
        return shifted * (math.sqrt(vectors.shape[-1]) / length.clip(min=1e-3))


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


def load_domain(blobs: BlobStore, expert: LockedExpert, embedded: DomainEmbedding) -> Domain:
    """An expert's domain with all that its router learns from. Raises NotFoundError, IntegrityError."""
    import torch

    from composer.tensors.torch_blobs import map_tensors

    vectors = torch.from_numpy(embedded.centroids.copy())
    if expert.chunk_vectors is not None:
        vectors = map_tensors(blobs.path(expert.chunk_vectors))["vectors"].clone()
    text = documents.load_documents(blobs, expert.sample) if expert.sample is not None else []
    return Domain(expert.ref, torch.from_numpy(embedded.mean.copy()), vectors, text)


def nearly_equal(experts: Sequence[LockedExpert], means: np.ndarray) -> list[str]:
    """A warning for each pair of experts' domains, of mean vectors [N, M], between which no router can choose."""
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    return [
        f"the domains of {experts[i].ref} and {experts[j].ref} are nearly equal (cosine {cosine:.3f}): "
        "the router can hardly tell them apart"
        for (i, j), cosine in np.ndenumerate(directions @ directions.T)
        if i < j and cosine > NEARLY_EQUAL
    ]
