"""Presets: named sets of recipe options. An option that the recipe also gives replaces the preset's.

This module imports nothing, so that the command line's help stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEY = "preset"

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "whole": {"trunk_merge": "routed"},
    "merged": {"trunk_merge": "regmean"},
    # arXiv 2408.15901: the mean of the trunks, additive experts, and a fine-tune of freshly drawn routers.
    "paper": {
        "router": "nexus",
        "combine": "additive",
        "trunk_merge": "mean",
        "training": {"warm_start": False, "tokens": 100_000},
    },
}


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the preset of a recipe's fields by its options. Raises ValueError for an unknown one."""
    fields = {name: value for name, value in values.items() if name != KEY}
    name = values.get(KEY)
    if name is None:
        return fields
    if name not in PRESETS:
        raise ValueError(f"{KEY}: no preset {name!r}; expected one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    given = {key: value for key, value in fields.items() if value is not None}
    training = given.get("training", {})
    if "training" in preset and isinstance(training, Mapping):
        given["training"] = {**preset["training"], **training}
    return {**preset, **given}
