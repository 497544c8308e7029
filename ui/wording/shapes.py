"""JSON shapes of all record types: `--json` prints them, and the tables are built from them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.composition import ComposeResult
    from registry.records import EventRecord, ExpertRecord, Hit, MixRecord, RunRecord, SeedRecord


def seed_shape(seed: SeedRecord) -> dict[str, Any]:
    """Return a seed: its description, its licence and the digests of its parts."""
    return {
        "seed": seed.name,
        "license": seed.license,
        "description": seed.description,
        "model_type": seed.model_type,
        "dtype": seed.dtype,
        "parameters": seed.parameters,
        "ffn": seed.ffn,
        "trunk": seed.trunk,
        "files": dict(sorted(seed.files.items())),
        "sample": seed.sample,
        "held_out": seed.held_out,
        "created_at": seed.created_at.isoformat(),
    }


def expert_shape(expert: ExpertRecord) -> dict[str, Any]:
    """Return all fields of an expert version except its vectors."""
    return {
        "expert": expert.ref,
        "seed": expert.seed,
        "anchored": expert.anchored,
        "ffn": expert.ffn,
        "trunk": expert.trunk,
        "difference": expert.difference,
        "license": expert.license,
        "description": expert.description,
        "dtype": expert.dtype,
        "parameters": expert.parameters,
        "ffn_width": expert.ffn_width,
        "embedder": dataclasses.asdict(expert.embedding.embedder),
        "centroids": len(expert.embedding.centroids),
        "chunks": expert.embedding.chunk_count,
        "sample_sha256": expert.embedding.sample_sha256,
        "sample": expert.sample,
        "held_out": expert.held_out,
        "provenance": expert.provenance,
        "state": expert.state,
        "withdrawn": expert.withdrawn,
        "tags": list(expert.tags),
        "authors": list(expert.authors),
        "created_at": expert.created_at.isoformat(),
    }


def expert_row(expert: ExpertRecord) -> dict[str, Any]:
    """Return the fields of an expert version that are shown in a list."""
    return {
        "expert": expert.ref,
        "seed": expert.seed,
        "license": expert.license,
        "parameters": expert.parameters,
        "anchored": expert.anchored,
        "description": expert.description,
        "tags": list(expert.tags),
        "state": expert.state,
        "withdrawn": expert.withdrawn,
    }


def hit_row(hit: Hit) -> dict[str, Any]:
    """Return a search result: the expert, its score, and the passage of its text that is nearest to the query."""
    score = round(float(hit.score), 4)
    return {"expert": hit.expert.ref, "score": score, **expert_row(hit.expert), "passage": hit.passage}


def mix_shape(mix: MixRecord) -> dict[str, Any]:
    """Return a mix version: its lineage, its experts and its newest evaluation, if any."""
    return {
        "mix": mix.ref,
        "parent": mix.parent,
        "seed": mix.seed,
        "experts": list(mix.experts),
        "withdrawn": list(mix.withdrawn),
        "purged": list(mix.purged),
        "manifest": mix.manifest,
        "lock": mix.lock,
        "created_at": mix.created_at.isoformat(),
        "evaluation": mix.evaluation,
    }


def composed_shape(result: ComposeResult) -> dict[str, Any]:
    """Return the result of composing, extending or removing: the published mix and its cost."""
    return {
        "mix": result.mix.ref,
        "parent": result.mix.parent,
        "seed": result.mix.seed,
        "experts": list(result.mix.experts),
        "license": result.manifest.license,
        "lock": result.mix.lock,
        "manifest": result.mix.manifest,
        "bytes_written": result.bytes_written,
        "seconds": round(result.seconds, 1),
        "training": result.manifest.training,
        "stage_seconds": {stage: round(seconds, 1) for stage, seconds in result.stage_seconds.items()},
        "warnings": result.warnings,
    }


def event_shape(event: EventRecord) -> dict[str, Any]:
    """Return an event of the log."""
    return {
        "event": event.id,
        "at": event.at.isoformat(timespec="seconds"),
        "user": event.actor,
        "action": event.action,
        "subject": event.subject,
        "digest": event.digest,
        "detail": event.detail,
    }


def run_shape(run: RunRecord) -> dict[str, Any]:
    """Return a run: its request, its progress and its outcome."""
    fields = dataclasses.asdict(run)
    moments = {
        key: value.isoformat() for key, value in fields.items() if key.endswith(("_at", "_until")) and value
    }
    of = run.request.get("recipe", {}).get("name") or run.request.get("mix") or run.request.get("name")
    share = f" {run.done / run.total:.0%}" if run.total else ""
    return {
        "run": fields.pop("id"),
        "kind": fields.pop("kind"),
        "subject": of,
        "state": fields.pop("state"),
        "progress": f"{run.stage}{share}" if run.stage and run.state == "running" else None,
        **fields,
        **moments,
    }
