"""Statistics over random seeds: means, standard deviations, and comparisons of cases over common random seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def aggregate(runs: Sequence[Any]) -> Any:
    """Merge equal structures into one: each number becomes its mean, standard deviation (0 for one run) and values."""
    first = runs[0]
    if isinstance(first, Mapping):
        return {name: aggregate([run[name] for run in runs]) for name in first}
    if isinstance(first, list):
        return [aggregate(list(column)) for column in zip(*runs, strict=True)]
    deviation = statistics.stdev(runs) if len(runs) > 1 else 0.0
    return {"mean": statistics.fmean(runs), "deviation": deviation, "values": list(runs)}


def compared(cases: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[int]]:
    """Return the figures of several cases over the random seeds that all of them have, and these random seeds."""
    common = set(cases[0]["random_seeds"]).intersection(*(case["random_seeds"] for case in cases[1:]))
    seeds = sorted(common)
    if not seeds:
        return [], []
    return [
        _picked(case["figures"], [case["random_seeds"].index(seed) for seed in seeds]) for case in cases
    ], seeds


def _picked(figures: Any, places: Sequence[int]) -> Any:
    """Return the same figures, aggregated only over the runs at these indices."""
    if isinstance(figures, list):
        return [_picked(each, places) for each in figures]
    if "values" in figures:
        return aggregate([figures["values"][place] for place in places])
    return {name: _picked(each, places) for name, each in figures.items()}
