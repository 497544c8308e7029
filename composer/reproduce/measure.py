"""Measurement of one cell: make the mix of its case without publishing it, and measure it.

Shape suffixes: N routed experts, M domain-embedding width, H model width.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from composer.bits_per_byte import HeldOut, bits_per_byte
from composer.composition import assemble
from composer.evaluation.contenders import dense_merging, expert_contender, seed_contender
from composer.evaluation.evaluate import score_mix
from composer.extension import assemble_extension
from composer.gathering import resolve, resolve_extension
from composer.mix.lock import LockedExpert
from composer.mix.opening import Manifest, open_mix, read_manifest
from composer.mix.recipe import Recipe, Training
from composer.model.modeling import forced
from composer.progress import measuring
from composer.reproduce.cells import Cells
from composer.reproduce.cost import Cost, training_rate
from composer.reproduce.lab import Lab
from composer.reproduce.plan import SYSTEMS, Case
from composer.training.mix_training import LONG
from registry.catalog import queries
from registry.records import Digest

# Cost of a warm start with a short and with a long fine-tune, relative to its cost without one. The trunk is fitted
# once. The routers are solved on half of the text before the fine-tune; after it, again on half, or on all the text
# if the fine-tune was long.
COMPOSED_SHARES, EXTENDED_SHARES = (1.0, 1.35), (0.8, 1.0)


@dataclass
class Measurer:
    """Measures the cells of a lab."""

    lab: Lab
    cells: Cells
    cases: Mapping[str, Case]
    _made: dict[tuple[str, int], Digest] = field(default_factory=dict)

    def baselines(self, *, anchored: bool = False) -> dict[str, Any]:
        """Return the dense models' bits per byte: the seed, each expert on its own domain, dense merging.

        "dense_merging" merges the members and the seed; "dense_merging_extended" also merges the new expert.
        """
        registry, seed, texts = self.lab.registry, self.lab.seed, self.lab.texts()
        domains = self.lab.settings.domains
        experts = dict(zip(domains, self.lab.experts(domains, anchored=anchored), strict=True))
        own = {
            domain: bits_per_byte(expert_contender(registry, seed, expert).open(), texts[domain])
            for domain, expert in experts.items()
        }
        members = [experts[domain] for domain in self.lab.settings.members]
        return {
            "expert": own,
            "seed": _bits(seed_contender(registry, seed).open(), texts),
            "dense_merging": _bits(self._merged(members), texts),
            "dense_merging_extended": _bits(self._merged(list(experts.values())), texts),
        }

    def _merged(self, experts: Sequence[LockedExpert]) -> Any:
        merged = dense_merging(self.lab.registry, self.lab.seed, experts)
        assert merged is not None, "experts that the lab trained have their seed's widths"
        return merged.open()

    def cell(self, case: Case, random_seed: int) -> dict[str, Any]:
        """Make the mix of a case and measure it. Returns {"skipped": why} if the warm start uses the whole budget."""
        before = self.cells.read(case.parent, random_seed) if case.parent is not None else None
        if before is not None and "skipped" in before:
            return {"skipped": f"{case.parent}: {before['skipped']}"}
        tokens = self.tokens(case, random_seed)
        if case.budget and tokens <= 0:
            return {"skipped": f"the warm start alone costs {case.budget - tokens:,} token equivalents"}
        started, solving = time.process_time(), 0.0

        def listen(name: str, step: int, value: float) -> None:
            nonlocal solving
            solving += value if name == "solving seconds" else 0

        with measuring(listen):
            manifest = self.make(case, random_seed, tokens)
        seconds = time.process_time() - started
        report = manifest.training
        cost = Cost(report.get("tokens", 0), report.get("warm_start", {}).get("tokens", 0), solving, seconds)
        return {
            "case": case.name,
            "system": case.system,
            "budget": case.budget,
            "parent": case.parent,
            "variant": case.variant,
            "random_seed": random_seed,
            "manifest": self._keep(case, random_seed, manifest),
            "cost": cost.as_json(),
            "training": json.loads(self.lab.registry.blobs.read_bytes(manifest.lock))["settings"]["training"],
            **self.scores(case, manifest),
        }

    def tokens(self, case: Case, random_seed: int) -> int:
        """Return the number of tokens to train on: the budget minus the cost of the warm start."""
        if case.like is None:
            return case.budget
        alone = self.cells.read(case.like, random_seed)
        assert alone is not None, f"{case.like} must be measured before {case.name}"
        known = [self.cells.read(name, random_seed) or {} for name in self.cases]
        spent = Cost(**alone["cost"]).equivalents(training_rate(known))
        shares = COMPOSED_SHARES if case.parent is None else EXTENDED_SHARES
        short, long = (int(case.budget - share * spent) for share in shares)
        return long if long >= LONG else min(short, LONG - 1)

    def make(self, case: Case, random_seed: int, tokens: int) -> Manifest:
        """Compose or extend the mix of a case; the same case and random seed give the same bytes."""
        lab, system = self.lab, SYSTEMS[case.system]
        settings = {**system.training, **case.training, **lab.settings.training}
        training = Training.model_validate({**settings, "tokens": tokens, "random_seed": random_seed})
        if case.parent is not None:
            parent = self._digest(self.cases[case.parent], random_seed)
            old = read_manifest(lab.registry, parent)
            new = lab.expert(lab.settings.newcomer, anchored=system.anchored)
            extension = resolve_extension(lab.registry, old, parent, new.ref, training=training)
            return assemble_extension(lab.registry, extension, progress=lab.progress)[0]
        experts = lab.experts(lab.settings.members, anchored=system.anchored)
        composition = resolve(
            lab.registry,
            Recipe.parse(
                {
                    "name": case.name,
                    "seed": lab.seed.name,
                    "experts": [expert.ref for expert in experts],
                    "training": training,
                    **system.recipe,
                }
            ),
        )
        return assemble(lab.registry, composition, progress=lab.progress)[0]

    def scores(self, case: Case, manifest: Manifest) -> dict[str, Any]:
        """Measure a mix: bits per byte on every text, routing, and cosines of the last block of a Nexus router.

        A mix without fine-tuning is also measured with each token forced to its own domain's expert ("oracle").
        """
        lab, texts = self.lab, self.lab.texts()
        domains = lab.settings.domains[: len(manifest.members)]
        model = open_mix(lab.registry, manifest).model
        found = score_mix(model, domains, texts)
        if not manifest.training.get("tokens"):
            oracle = {}
            for place, domain in enumerate(domains):
                with forced(model, place):
                    oracle[domain] = bits_per_byte(model, texts[domain])
            found["oracle"] = oracle
        if manifest.router_kind in ("nexus", "nexus_context"):
            found["cosines"] = self._cosines(manifest, model)
        return found

    def _cosines(self, manifest: Manifest, model: Any) -> dict[str, list[list[float]]]:
        """Return cosine similarities [N, N] of the domain embeddings before and after P_r of the last block."""
        refs = [member.expert.ref for member in manifest.members]
        _, experts = queries.get_parts(self.lab.registry, manifest.seed.name, refs)
        before_NM = torch.from_numpy(np.stack([expert.embedding.mean for expert in experts]))
        with torch.no_grad():
            after_NH = model.mixtures()[-1].router.gate()
        return {"before": _cosine(before_NM), "after": _cosine(after_NH)}

    def _keep(self, case: Case, random_seed: int, manifest: Manifest) -> Digest:
        digest = self.lab.registry.blobs.put_bytes(manifest.to_bytes())
        self._made[case.name, random_seed] = digest
        return digest

    def _digest(self, case: Case, random_seed: int) -> Digest:
        """Return the manifest of a measured case; it is made again if garbage collection removed its blobs."""
        known = self._made.get((case.name, random_seed))
        if known is not None:
            return known
        cell = self.cells.read(case.name, random_seed)
        assert cell is not None, f"{case.name} must be measured before the cases that extend it"
        digest, blobs = Digest(cell["manifest"]), self.lab.registry.blobs
        if blobs.exists(digest) and all(map(blobs.exists, read_manifest(self.lab.registry, digest).blobs())):
            self._made[case.name, random_seed] = digest
            return digest
        return self._keep(case, random_seed, self.make(case, random_seed, cell["cost"]["trained"]))


def _bits(model: Any, texts: Mapping[str, HeldOut]) -> dict[str, float]:
    return {domain: bits_per_byte(model, text) for domain, text in texts.items()}


def _cosine(vectors: torch.Tensor) -> list[list[float]]:
    unit = F.normalize(vectors.float(), dim=1)
    rows: list[list[float]] = (unit @ unit.T).tolist()
    return rows
