"""Descent: evidence that an expert was trained from its seed, read from a sample of both models' weights.

Fine-tuning changes weights little: the cosine between a fine-tuned matrix and its seed's is near 1. Matrices of
independently trained models are nearly orthogonal, because the order of their hidden units is arbitrary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from registry.checkpoints.families import Roles
from registry.checkpoints.safe_files import open_regular
from registry.checkpoints.tensors import DTYPE_BYTES, TensorInfo
from registry.errors import IncompatibleError

# A role below this cosine is not descended from the seed. Noise of five times the weights' norm still gives 0.2.
LEAST_COSINE = 0.1
# Number and length of the runs of elements compared per tensor, spread evenly over it.
SAMPLE_RUNS = 16
RUN_ELEMENTS = 4096
_WHOLE_RUN = 2**20
_STORED = {"F16": np.float16, "BF16": np.uint16, "F32": np.float32, "F64": np.float64}

Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Difference:
    """Difference between an expert's role and the seed's, over a sample of the weights.

    `cosine` is computed over the matrices; `changed` is the share of weights that differ. None means that no tensor
    of equal shape exists, or for `cosine` that all compared values are zero.
    """

    cosine: float | None
    changed: float | None


def check_descent(
    seed: Mapping[str, Infos],
    roles: Roles,
    *,
    allow_unchanged: bool = False,
    allow_unrelated: bool = False,
) -> dict[str, dict[str, float | None]]:
    """Compare an expert's roles with `seed`, which maps "ffn" and "trunk" to the seed's tensors.

    Returns the differences by role, which are recorded with the expert. Raises IncompatibleError for weights that
    equal the seed's and for a role that is not descended from the seed's, unless allowed.
    """
    expert: Mapping[str, Infos] = {"ffn": roles.ffn, "trunk": roles.trunk}
    found = {role: difference(seed[role], expert[role]) for role in expert}
    unchanged = all(each.changed == 0 for each in found.values())
    if unchanged and not allow_unchanged and all(equal(seed[role], expert[role]) for role in expert):
        raise IncompatibleError(
            "every weight equals the seed's, so the expert was not trained; train it first, "
            "or allow it with --allow-unchanged"
        )
    if not allow_unrelated:
        refuse_apart({role: each.cosine for role, each in found.items()})
    return {role: asdict(each) for role, each in found.items()}


def refuse_apart(cosines: Mapping[str, float | None]) -> None:
    """Raise IncompatibleError if the cosine of a role shows that it is not descended from the seed's."""
    apart = {role: cosine for role, cosine in cosines.items() if cosine is not None and cosine < LEAST_COSINE}
    if apart:
        got = " and ".join(f"{cosine:.2f} for the {role}" for role, cosine in apart.items())
        raise IncompatibleError(
            f"these weights were not trained from the seed: the cosine to the seed's weights is {got}, expected "
            f"about 0.9 or more; choose the seed that the model was trained from, or allow it with --allow-unrelated"
        )


def difference(seed: Infos, expert: Infos) -> Difference:
    """Return one role's difference over a sample; memory and time do not grow with the tensors' sizes."""
    dot = seed_square = expert_square = 0.0
    changed = compared = 0
    for name, info in expert.items():
        base = seed.get(name)
        if base is None or base.shape != info.shape:
            continue
        for one, other in _pairs(base, info, _sampled(info)):
            changed += int(np.count_nonzero(one != other))
            compared += one.size
            if len(info.shape) > 1:
                dot += float(one @ other)
                seed_square += float(one @ one)
                expert_square += float(other @ other)
    length = np.sqrt(seed_square) * np.sqrt(expert_square)
    cosine = float(dot / length) if length > 0 else None
    return Difference(cosine, changed / compared if compared else None)


def equal(seed: Infos, expert: Infos) -> bool:
    """Return whether all values of a role are equal, also across dtypes; reads until the first difference."""
    return seed.keys() == expert.keys() and all(
        seed[name].shape == info.shape
        and all(np.array_equal(one, other) for one, other in _pairs(seed[name], info, _whole(info)))
        for name, info in expert.items()
    )


def _sampled(info: TensorInfo) -> list[tuple[int, int]]:
    """Return runs [start, stop) of elements, spread evenly; a small tensor is sampled completely."""
    count = info.parameters
    if count <= SAMPLE_RUNS * RUN_ELEMENTS:
        return [(0, count)]
    starts = np.linspace(0, count - RUN_ELEMENTS, SAMPLE_RUNS).astype(int)
    return [(int(start), int(start) + RUN_ELEMENTS) for start in starts]


def _whole(info: TensorInfo) -> list[tuple[int, int]]:
    count = info.parameters
    return [(start, min(start + _WHOLE_RUN, count)) for start in range(0, count, _WHOLE_RUN)]


def _pairs(
    seed: TensorInfo, expert: TensorInfo, runs: list[tuple[int, int]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with open_regular(seed.path) as first, open_regular(expert.path) as second:
        for start, stop in runs:
            yield _read(first, seed, start, stop), _read(second, expert, start, stop)


def _read(file: Any, info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Return elements [start, stop) in float64."""
    width = DTYPE_BYTES[info.dtype]
    data = os.pread(file.fileno(), (stop - start) * width, info.start + start * width)
    stored = np.frombuffer(data, dtype=_STORED[info.dtype])
    if info.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)
