"""The strength at which an expert predicts its own domain best.

An expert at strength γ is W_seed + γ · (W_expert − W_seed), in every parameter (WiSE-FT, arXiv 2109.01903). An expert
that trained long on little text is noisy and best below 1; one that trained shortly is best above. γ is found on text
that nothing trained on, from three forward passes: at ½, at 1, and at ¼ or 1¼, whichever lies beyond the better of
these. A parabola through the three gives the minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from composer import processes
from composer.bits_per_byte import HeldOut, bits_per_byte, windows
from composer.mix.lock import LockedExpert, LockedSeed
from composer.mix.opening import build_dense, expert_weights, open_tokenizer, seed_config, seed_weights
from composer.processes import ALONE, Team
from composer.progress import measured
from composer.tensors.weights import Blend, Weight
from registry.domains import documents
from registry.home import Registry

LOWEST, LOW, WHOLE, HIGH = 0.25, 0.5, 1.0, 1.25
MEASURED_BYTES = 10_000
# An owner measures once, for every later mix. From two texts of 10 kB one expert had .56 and .81, from 40 kB .76.
OWNER_BYTES = 40_000
WINDOW = 256


def find_strength(registry: Registry, seed: LockedSeed, expert: LockedExpert, sample: Sequence[str]) -> float:
    """Return the best strength on the documents of `sample` that are for choices; 1 if there are none.

    It is also 1 if the expert's FFNs differ in width from the seed's, because nothing lies between the two.
    """
    texts = _for_choices(sample)
    if not texts or expert.ffn_width != seed_config(registry.blobs, seed)["intermediate_size"]:
        return 1.0
    return processes.current().share(shared_strength, seed, expert, texts, registry=registry)


def shared_strength(
    team: Team, seed: LockedSeed, expert: LockedExpert, texts: Sequence[str], registry: Registry | None = None
) -> float:
    """Find a strength together with the other processes of a team, which share the windows of the text."""
    registry = registry or team.registry
    assert registry is not None
    end = expert_weights(registry.blobs, expert)
    return strength_of(registry, seed, end, texts, expert.ref, team=team)


def strength_of(
    registry: Registry,
    seed: LockedSeed,
    end: Mapping[str, Weight],
    sample: Sequence[str],
    name: str,
    *,
    max_bytes: int = MEASURED_BYTES,
    team: Team = ALONE,
) -> float:
    """Return the best strength of the weights `end`, as `find_strength` does, on `max_bytes` of text.

    Every process of `team` makes the same call.
    """
    text = text_for_choices(open_tokenizer(registry.blobs, seed.files), sample, max_bytes)
    if text is None:
        return 1.0
    start = seed_weights(registry.blobs, seed)
    config = seed_config(registry.blobs, seed)

    def loss(strength: float) -> float:
        weights = {key: Blend(start[key], end[key], strength) for key in start}
        found = bits_per_byte(build_dense(config, weights, torch.float32), text, team=team)
        measured(f"strength of {name}", round(100 * strength), found)
        return found

    return best_strength(loss)


def text_for_choices(
    tokenizer: Any, sample: Sequence[str], max_bytes: int = MEASURED_BYTES
) -> HeldOut | None:
    """Return text of a sample that nothing trained on, for choices between settings; None if there is none."""
    texts = _for_choices(sample)
    return windows(tokenizer, texts, max_bytes=max_bytes, length=WINDOW) if texts else None


def _for_choices(sample: Sequence[str]) -> list[str]:
    return [text for text in sample if documents.is_for_choices(text)]


def best_strength(loss: Callable[[float], float]) -> float:
    """Return the strength of least loss, from three calls; at an end of the range, that end."""
    low, whole = loss(LOW), loss(WHOLE)
    if low < whole:
        points = [(LOWEST, loss(LOWEST)), (LOW, low), (WHOLE, whole)]
    else:
        points = [(LOW, low), (WHOLE, whole), (HIGH, loss(HIGH))]
    return minimum(points)


def minimum(points: Sequence[tuple[float, float]]) -> float:
    """Return where the least loss is, from three points (strength, loss) in order; at an end, that end."""
    best = min(points, key=lambda point: (point[1], abs(point[0] - WHOLE)))
    return best[0] if best != points[1] else round(_vertex(points), 2)


def _vertex(points: Sequence[tuple[float, float]]) -> float:
    """Return the minimum of the parabola through three points, the middle one the lowest."""
    (a, f_a), (b, f_b), (c, f_c) = points
    below, above = (b - a) * (f_b - f_c), (b - c) * (f_b - f_a)
    if below == above:  # three equal losses
        return b
    return b - 0.5 * ((b - a) * below - (b - c) * above) / (below - above)
