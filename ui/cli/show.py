"""`nexusmix show`: all details of one expert, with its digests and provenance."""

from __future__ import annotations

import typer

from ui.cli.kit.context import ExpertRef, Json, examples, open_registry
from ui.cli.kit.output import print_fields, print_json
from ui.wording.display import parameters
from ui.wording.provenance import in_words
from ui.wording.shapes import expert_shape

EXAMPLES = examples("nexusmix show python", "nexusmix show python@2 --json")


def show(ctx: typer.Context, ref: ExpertRef, as_json: Json = False) -> None:
    """Show an expert: its card, digests and provenance."""
    from registry.catalog.queries import get_expert

    with open_registry(ctx) as registry:
        expert = get_expert(registry, ref)
    shape = expert_shape(expert)
    if as_json:
        print_json(shape)
        return
    print_fields(
        {
            "expert": expert.ref,
            "about": expert.description,
            "withdrawn": expert.withdrawn,
            "seed": expert.seed,
            "licence": expert.license,
            "parameters": parameters(expert.parameters),
            "weights": f"{expert.dtype}, FFN width {expert.ffn_width}",
            "anchored": expert.anchored,
            "ffn": expert.ffn,
            "trunk": expert.trunk,
            "low-rank difference": expert.difference,
            "embedder": expert.embedding.embedder,
            "domain": f"{expert.embedding.chunk_count} chunks, {len(expert.embedding.centroids)} centroids",
            "sample": expert.sample or "not shared: only the embedding was contributed",
            "held out": expert.held_out,
            **{
                f"from {key}" if key in expert.provenance else key: value
                for key, value in in_words(expert.provenance).items()
            },
            "published": expert.created_at.isoformat(),
        }
    )
