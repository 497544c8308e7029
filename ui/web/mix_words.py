"""Descriptions of a mix, read from its record and its manifest without opening a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from composer.evaluation.comparison import text_bytes
from composer.mix.routing import RoutingOptions
from registry.home import Registry
from registry.records import MixRecord
from ui.web.components import chip
from ui.wording.display import size

NEAR = 4


def manifest_of(registry: Registry, mix: MixRecord) -> dict[str, Any]:
    """Return the manifest's fields; reading it as JSON avoids importing the composer and torch."""
    fields: dict[str, Any] = json.loads(registry.blobs.read_bytes(mix.manifest))
    return fields


def settings_line(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the mix's routing and combination settings by title."""
    if manifest.get("routed_trunk"):
        how = {"Trunk": "routed: whole experts"}
    else:
        how = {
            "Combination": manifest["combine"],
            "Experts per token": _routing(manifest).experts_per_token,
        }
    return {"Router": manifest["router_kind"], **how, "Licence": manifest["license"]}


def _routing(manifest: dict[str, Any]) -> RoutingOptions:
    return RoutingOptions(
        **{name: manifest[name] for name in RoutingOptions.model_fields if name in manifest}
    )


def mix_facts(mix: MixRecord, *, starred: bool = False) -> str:
    """A mix's chips (HTML): its seed and its experts, and whether it is a favourite."""
    marks = [
        *([chip("★ favourite", "good")] if starred else []),
        chip(mix.seed),
        *(_member_chip(mix, ref) for ref in mix.experts),
    ]
    return f'<div class="nm-facts">{"".join(marks)}</div>'


def _member_chip(mix: MixRecord, ref: str) -> str:
    state = "purged" if ref in mix.purged else "withdrawn" if ref in mix.withdrawn else ""
    return chip(f"{ref} {state}", "warning") if state else chip(ref, "anchored")


def score_line(evaluation: Mapping[str, Any] | None) -> str:
    """The bits per byte of a mix of unknown quality: "2.310 bits per byte on 180 kB of text; seed: 2.630"."""
    mean = (evaluation or {}).get("mean", {})
    if "mix" not in mean:
        return "not evaluated yet"
    seed = f"; seed: {mean['seed']:.3f}" if "seed" in mean else ""
    return f"{mean['mix']:.3f} bits per byte on {text_words(evaluation or {})}{seed}"


def text_words(evaluation: Mapping[str, Any], domain: str | None = None) -> str:
    """The amount of evaluated text: "180 kB of text", or "unknown text" if an earlier version did not record it."""
    count = text_bytes(evaluation, domain)
    return "unknown text" if count is None else f"{size(count)} of text"


def ancestors(mix: MixRecord, mixes: Sequence[MixRecord]) -> list[MixRecord]:
    """Return the chain of mixes that this one was made from, oldest first."""
    known = {each.ref: each for each in mixes}
    line: list[MixRecord] = []
    parent = mix.parent
    while parent in known and known[parent] not in line:
        line.insert(0, known[parent])
        parent = known[parent].parent
    return line


def children(mix: MixRecord, mixes: Sequence[MixRecord]) -> list[MixRecord]:
    """Return the mixes that were made from this one."""
    return [each for each in mixes if each.parent == mix.ref]


def near(mix: MixRecord, mixes: Sequence[MixRecord]) -> list[str]:
    """Return a mix and the newest others of its seed, to compare them."""
    newest = sorted(mixes, key=lambda each: each.created_at, reverse=True)
    others = [each.ref for each in newest if each.seed == mix.seed and each.ref != mix.ref]
    return [mix.ref, *others[: NEAR - 1]]


def step(parent: MixRecord, child: MixRecord) -> str:
    """The change of experts from parent to child: "+ german@1", "− law@1"."""
    added = [f"+ {ref}" for ref in child.experts if ref not in parent.experts]
    gone = [f"− {ref}" for ref in parent.experts if ref not in child.experts]
    return ", ".join([*added, *gone]) or "composed again"
