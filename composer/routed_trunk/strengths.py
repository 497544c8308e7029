"""The strength at which an expert predicts its own domain best.

An expert at strength γ is W_seed + γ · (W_expert − W_seed), in every parameter (WiSE-FT, arXiv 2109.01903). An expert
that trained long on little text is noisy and best below 1; one that trained shortly is best above. γ is the best of
GRID on text that nothing trained on, refined by the parabola through it and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from composer.bits_per_byte import bits_per_byte, windows
from composer.mix.lock import LockedExpert, LockedSeed
from composer.mix.opening import open_dense, open_tokenizer, seed_config
from composer.progress import measured
from registry.domains import documents
from registry.home import Registry

GRID = (0.5, 0.75, 1.0, 1.25)
MEASURED_BYTES = 16_000
WINDOW = 256


def find_strength(registry: Registry, seed: LockedSeed, expert: LockedExpert, sample: Sequence[str]) -> float:
    """The best strength on the documents of `sample` that are for choices. 1 where there are none.

    It is 1 too where the expert's FFNs differ in width from the seed's: nothing lies between the two.
    """
    texts = [text for text in sample if documents.is_for_choices(text)]
    if not texts or expert.ffn_width != seed_config(registry.blobs, seed)["intermediate_size"]:
        return 1.0
    tokenizer = open_tokenizer(registry.blobs, seed.files)
    text = windows(tokenizer, texts, max_bytes=MEASURED_BYTES, length=WINDOW)
    start = open_dense(registry, seed, seed.ffn, seed.trunk).state_dict()
    end = open_dense(registry, seed, expert.ffn, expert.trunk).state_dict()
    model = open_dense(registry, seed, seed.ffn, seed.trunk, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # the blobs' own memory is never written to
    losses = []
    for strength in GRID:
        for name, parameter in model.named_parameters():
            torch.lerp(start[name].float(), end[name].float(), strength, out=parameter.data)
        losses.append(bits_per_byte(model, text))
        measured(f"strength {strength} of {expert.ref}", len(losses), losses[-1])
    return best_strength(GRID, losses)


def best_strength(grid: Sequence[float], losses: Sequence[float]) -> float:
    """The minimum of the parabola through the best point and its neighbours; at an end of the grid, that end."""
    i = min(range(len(losses)), key=losses.__getitem__)
    if not 0 < i < len(losses) - 1:
        return float(grid[i])
    step = grid[i + 1] - grid[i]
    below, best, above = losses[i - 1 : i + 2]
    curvature = below - 2 * best + above
    offset = 0.5 * (below - above) / curvature if curvature > 0 else 0.0
    return round(grid[i] + offset * step, 2)
