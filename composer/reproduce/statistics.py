"""Figures over random seeds: means and deviations, and cases compared over the random seeds that all of them have."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def aggregate(runs: Sequence[Any]) -> Any:
    """Equal structures into one, each number as its mean, deviation (0 of a single one) and values."""
    first = runs[0]
    if isinstance(first, Mapping):
        return {name: aggregate([run[name] for run in runs]) for name in first}
    if isinstance(first, list):
        return [aggregate(list(column)) for column in zip(*runs, strict=True)]
    deviation = statistics.stdev(runs) if len(runs) > 1 else 0.0
    return {"mean": statistics.fmean(runs), "deviation": deviation, "values": list(runs)}


def compared(cases: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[int]]:
    """The figures of several cases over the random seeds that all of them have, and these random seeds."""
    common = set(cases[0]["random_seeds"]).intersection(*(case["random_seeds"] for case in cases[1:]))
    seeds = sorted(common)
    if not seeds:
        return [], []
    return [
        _picked(case["figures"], [case["random_seeds"].index(seed) for seed in seeds]) for case in cases
    ], seeds


def _picked(figures: Any, places: Sequence[int]) -> Any:
    """The same figures over the runs at some places only."""
    if isinstance(figures, list):
        return [_picked(each, places) for each in figures]
    if "values" in figures:
        return aggregate([figures["values"][place] for place in places])
    return {name: _picked(each, places) for name, each in figures.items()}
