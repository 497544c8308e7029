"""Parts of a mix with one trunk as rows, for exports: the trunk, the shared expert and the routed experts.

A fine-tune with `train: lora` stores one blob of low-rank differences for the whole mix. Its names are those of the
mix without their prefix: `…self_attn.q_proj.lora_A`, `…mlp.shared.up_proj.lora_B`, `…mlp.experts.0.up_proj.lora_A`.
Ranks may differ: an extension appends its own pairs to those of its parent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from composer.mix.opening import Manifest, ffn_places, seed_config
from composer.mix.tensor_names import PREFIX, name_in_mixture
from composer.tensors.rows import Rows, Stored, Sum
from composer.tensors.stream import put_float32, read, stored_tensors
from registry.blobs import BlobStore
from registry.checkpoints.families import family_of
from registry.checkpoints.low_rank import B, pair_names
from registry.checkpoints.tensors import TensorInfo
from registry.records import Digest

TRUNK = "trunk"
Parts = Mapping[str, Mapping[str, Rows]]


def merged_parts(blobs: BlobStore, manifest: Manifest) -> Parts:
    """Return the tensors of `trunk`, `shared`, `experts.0` … under the family's own names, with their differences."""
    family = family_of(seed_config(blobs, manifest.seed))
    pairs = {} if manifest.difference is None else stored_tensors(blobs, manifest.difference)

    def tensor(place: str, name: str, info: TensorInfo) -> Rows:
        mixed = name if place == TRUNK else name_in_mixture(family, place, name).removeprefix(PREFIX)
        a, b = pair_names(mixed)
        return Sum(info, pairs[a], pairs[b]) if a in pairs else Stored(info)

    places = {TRUNK: manifest.trunk, **ffn_places(manifest)}
    return {
        place: {name: tensor(place, name, info) for name, info in stored_tensors(blobs, digest).items()}
        for place, digest in places.items()
    }


def scaled_trunk(blobs: BlobStore, difference: Digest, marker: str, factor: float) -> Digest:
    """Store a mix's differences with those of the trunk multiplied by a factor. `marker` is in the names of FFNs."""
    pairs = stored_tensors(blobs, difference)

    def value(name: str) -> np.ndarray:
        given = read(pairs[name], 0, pairs[name].parameters)
        return given * np.float32(factor) if name.endswith(B) and marker not in name else given

    return put_float32(blobs, {name: info.shape for name, info in pairs.items()}, value)


def joined(blobs: BlobStore, kept: Mapping[str, TensorInfo], new: Mapping[str, np.ndarray]) -> Digest:
    """Store the sum of differences: those that a mix keeps and new ones of the same projections or others."""
    shapes = {name: info.shape for name, info in kept.items()}
    for name, matrix in new.items():
        shapes[name] = _shape(name, shapes[name], matrix.shape) if name in shapes else matrix.shape

    def value(name: str) -> np.ndarray:
        parts = [read(kept[name], 0, kept[name].parameters)] if name in kept else []
        parts += [new[name]] if name in new else []
        return np.concatenate(parts, axis=_axis(name))

    return put_float32(blobs, shapes, value)


def _axis(name: str) -> int:
    return 1 if name.endswith(B) else 0


def _shape(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    axis = _axis(name)
    return tuple(a + b if i == axis else a for i, (a, b) in enumerate(zip(one, other, strict=True)))
