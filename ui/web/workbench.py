"""Facts of mixes side by side: sizes, the recipe to compose them again, their runs and their losses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.estimate import Weights, merged_weights, whole_weights
from composer.evaluation.comparison import Comparison, evaluation_of, gain_kept
from composer.mix.recipe import Training
from registry.catalog.queries import get_parts
from registry.errors import RegistryError
from registry.home import Registry
from registry.queue import runs
from registry.records import MixRecord, RunRecord
from ui.web.form import address_of
from ui.web.mix_words import manifest_of, settings_line
from ui.web.run_words import outcome, recipe_fields

RUNS_SEARCHED = 200
MAKING = ("compose", "extend", "remove")


@dataclass(frozen=True)
class Entry:
    """A mix on the workbench. `sizes` is None if an expert of it is gone, `run` if the mix was made elsewhere."""

    mix: MixRecord
    manifest: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    sizes: Weights | None
    run: RunRecord | None

    @property
    def kept(self) -> float | None:
        """The share of its own experts' gain that it keeps."""
        return gain_kept(self.evaluation) if self.evaluation else None

    @property
    def tokens(self) -> int:
        """Tokens of its fine-tune."""
        return int(self.manifest["training"].get("tokens", 0))


def entries(registry: Registry, chosen: Sequence[MixRecord], mixes: Sequence[MixRecord]) -> list[Entry]:
    """Return the facts of each mix."""
    made = runs_by_mix(registry)
    found = []
    for mix in chosen:
        manifest = manifest_of(registry, mix)
        sizes = sizes_of(registry, mix, manifest)
        found.append(Entry(mix, manifest, evaluation_of(mix, mixes), sizes, made.get(mix.ref)))
    return found


def runs_by_mix(registry: Registry) -> dict[str, RunRecord]:
    """Return the newest run that made each mix, among the latest runs."""
    done = [
        run
        for kind in MAKING
        for run in runs.list_runs(registry, states=["succeeded"], kind=kind, limit=RUNS_SEARCHED)
    ]
    return {str(outcome(run).get("mix")): run for run in sorted(done, key=lambda run: run.id)}


def sizes_of(registry: Registry, mix: MixRecord, manifest: Mapping[str, Any]) -> Weights | None:
    """Return the sizes by the same count as the estimate before composing; None if a part is gone."""
    try:
        seed, experts = get_parts(registry, mix.seed, mix.experts)
        if manifest.get("routed_trunk"):
            tokens = manifest["training"].get("tokens", 0)
            return whole_weights(registry, seed, experts, Training().lora_rank if tokens else 0)
        top = manifest.get("top_k", 1), bool(manifest.get("top_p"))
        return merged_weights(registry, seed, experts, manifest["router_kind"], *top)
    except (RegistryError, OSError):
        return None


def recipe_of(registry: Registry, mix: MixRecord, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe in a mix's lock: its seed, its experts and the settings."""
    settings = json.loads(registry.blobs.read_bytes(mix.lock))["settings"]
    if not manifest.get("routed_trunk"):
        settings.setdefault("trunk_merge", {"method": "regmean"})
    return {"name": mix.name, "seed": mix.seed, "experts": list(mix.experts), **settings}


def compose_again(registry: Registry, mix: MixRecord, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the address of the form that composes a mix again with changes."""
    return address_of(recipe_fields(recipe_of(registry, mix, manifest)))


def losses(registry: Registry, found: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the losses of the runs that made the mixes, as points {"mix", "step", "loss"}."""
    return [
        {"mix": entry.mix.ref, "step": step, "loss": loss}
        for entry in found
        if entry.run is not None
        for step, loss in runs.get_metrics(registry, entry.run.id).get("loss", [])
    ]


def table(found: Sequence[Entry], scores: Comparison) -> str:
    """Return everything as CSV, one row per mix, with bits per byte by domain."""
    out = io.StringIO()
    writer = csv.writer(out)
    facts = ("mix", "seed", "experts", "router", "total weights", "active weights", "tokens", "gain kept")
    writer.writerow([*facts, *(f"bits per byte: {domain}" for domain in scores.rows)])
    for entry in found:
        row = [entry.mix.ref, entry.mix.seed, " ".join(entry.mix.experts)]
        row += [settings_line(dict(entry.manifest))["Router"]]
        row += [str(size) for size in (entry.sizes.total, entry.sizes.active)] if entry.sizes else ["", ""]
        row += [str(entry.tokens), "" if entry.kept is None else f"{entry.kept:.4f}"]
        for by_mix in scores.rows.values():
            score = by_mix.get(entry.mix.ref)
            row.append("" if score is None else f"{score.mix:.4f}")
        writer.writerow(row)
    return out.getvalue()
