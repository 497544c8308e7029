"""Parts of a routed mix: the whole weights of its bases, and the low-rank differences of its choices.

A choice is an expert or, last, the seed. Its base is weights of its own at a strength, or the seed's. An expert that
is stored as a low-rank difference has the seed as its base. A fine-tune adds a difference to any expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from composer.mix.tensor_names import difference_name, name_in_base
from composer.tensors.stream import stored_tensors
from registry.blobs import BlobStore
from registry.checkpoints.families import Family
from registry.checkpoints.low_rank import B, shape_of
from registry.records import Digest


@dataclass(frozen=True)
class Base:
    """Whole weights: seed + strength · (expert − seed), from the blobs of FFNs and trunk."""

    strength: float
    blobs: tuple[Digest, Digest]


@dataclass(frozen=True)
class Difference:
    """A low-rank difference of a choice from its base; `factor` multiplies its B."""

    blob: Digest
    factor: float


class Part(NamedTuple):
    """A tensor of a routed mix: its name there, its blob and its name in the blob, and a strength or factor."""

    name: str
    blob: Digest
    stored: str
    scale: float


@dataclass(frozen=True)
class Parts:
    """Bases of a routed mix, the base of each choice, and the differences by choice."""

    bases: list[Base]
    base_of: list[int]
    differences: dict[int, Difference]

    def weights(self, blobs: BlobStore, family: Family) -> Iterator[Part]:
        """Yield the tensors of the bases; `scale` is their base's strength."""
        for number, base in enumerate(self.bases):
            for digest in base.blobs:
                for name in stored_tensors(blobs, digest):
                    yield Part(name_in_base(family, number, name), digest, name, base.strength)

    def matrices(self, blobs: BlobStore, family: Family) -> Iterator[Part]:
        """Yield the matrices of the differences, to be multiplied by `scale`."""
        for choice, difference in self.differences.items():
            for name in stored_tensors(blobs, difference.blob):
                factor = difference.factor if name.endswith(B) else 1.0
                mixed = difference_name(family, self.base_of[choice], choice, name)
                yield Part(mixed, difference.blob, name, factor)

    def config(self, blobs: BlobStore) -> dict[str, Any]:
        """Return the fields of a NexusConfig; none if every choice has whole weights of its own."""
        if not self.differences:
            return {}
        shapes = {j: shape_of(stored_tensors(blobs, each.blob)) for j, each in self.differences.items()}
        return {"bases": self.base_of, "differences": [shapes.get(j) for j in range(len(self.base_of))]}
