"""Results from cells: the mean and standard deviation of every figure over random seeds, for each case."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from composer.reproduce.cells import Cells
from composer.reproduce.cost import Cost, training_rate
from composer.reproduce.criteria import bars
from composer.reproduce.lab import GENERAL
from composer.reproduce.plan import BASELINES, Case, Settings
from composer.reproduce.statistics import aggregate


def summarise(cells: Cells, settings: Settings, cases: Sequence[Case]) -> dict[str, Any]:
    """Return all results:

    {"settings", "baselines", "baselines_anchored": the dense models' bits per byte,
     "rate": trained tokens per CPU second,
     "cases": {name: {"title", "system", "budget", "parent", "variant", "random_seeds": [those measured],
                      "skipped": the reason or None, "figures": the result of `figures`, with each number as
                      {"mean", "deviation", "values"}}},
     "bars": the claims and their results}
    """
    measured = {
        case.name: {s: c for s in settings.random_seeds if (c := cells.read(case.name, s))} for case in cases
    }
    rate = training_rate(cell for runs in measured.values() for cell in runs.values())
    found: dict[str, Any] = {}
    for case in cases:
        runs = {s: cell for s, cell in measured[case.name].items() if "skipped" not in cell}
        skipped = [cell["skipped"] for cell in measured[case.name].values() if "skipped" in cell]
        found[case.name] = {
            "title": case.title,
            "system": case.system,
            "budget": case.budget,
            "parent": case.parent,
            "variant": case.variant,
            "random_seeds": list(runs),
            "skipped": skipped[0] if skipped else None,
            "figures": aggregate([figures(cell, settings, rate) for cell in runs.values()]) if runs else {},
        }
    dense = cells.read(BASELINES[False])
    results = {
        "settings": {
            "members": list(settings.members),
            "newcomer": settings.newcomer,
            "general": settings.general,
            "general_text": dense is not None
            and GENERAL in dense["seed"],  # whether general text was measured
            "random_seeds": list(settings.random_seeds),
            "budgets": list(settings.budgets),
            "expert_tokens": settings.expert_tokens,
            "max_bytes": settings.max_bytes,
        },
        "rate": rate,
        "baselines": dense,
        "baselines_anchored": cells.read(BASELINES[True]),
        "cases": found,
    }
    return {**results, "bars": bars(results)}


def figures(cell: Mapping[str, Any], settings: Settings, rate: float) -> dict[str, Any]:
    """Return the figures of a cell that are averaged over random seeds: numbers in mappings and lists.

    "bits": {domain: bits per byte}, "old": their mean over the members, "new", "general" if measured;
    "routing": {domain: {expert: share}}, "own": {domain: share to its own expert}, "own_by_layer": the same per block;
    "spent": token equivalents, "cpu_seconds"; "oracle_bits" by domain, "oracle" (mean over the members) and "cosines"
    if measured.
    """
    bits, routing, layers = cell["bits_per_byte"], cell["routing"], cell["routing_by_layer"]
    held = [domain for domain in settings.domains if domain in routing[domain]]
    found = {
        "spent": Cost(**cell["cost"]).equivalents(rate),
        "cpu_seconds": cell["cost"]["cpu_seconds"],
        "bits": bits,
        "old": statistics.fmean(bits[domain] for domain in settings.members),
        "new": bits[settings.newcomer],
        "routing": routing,
        "own": {domain: routing[domain][domain] for domain in held},
        "own_by_layer": {domain: layers[domain][domain] for domain in held},
    }
    if GENERAL in bits:
        found["general"] = bits[GENERAL]
    if "oracle" in cell:
        found["oracle_bits"] = cell["oracle"]
        found["oracle"] = statistics.fmean(cell["oracle"][domain] for domain in settings.members)
    if "cosines" in cell:
        found["cosines"] = cell["cosines"]
    return found
