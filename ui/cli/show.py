"""`nexusmix show`: all details of one expert or mix, with its digests and provenance."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import print_fields, print_json
from ui.wording.display import parameters, share, withdrawn_words
from ui.wording.licenses import licence_words
from ui.wording.provenance import in_words
from ui.wording.shapes import expert_shape, mix_shape

if TYPE_CHECKING:
    from registry.home import Registry
    from registry.records import ExpertRecord

EXAMPLES = examples(
    "nexusmix show python",
    "nexusmix show python@2 --json",
    "nexusmix show team --bom cyclonedx > team.cdx.json",
)
CYCLONEDX = "cyclonedx"


def show(
    ctx: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The expert, or the mix if no expert has this name: NAME or NAME@N."
        ),
    ],
    bom: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Print the bill of materials of the mix NAME instead, as JSON: cyclonedx (extra bom).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show an expert or a mix: its card, digests and provenance."""
    if bom not in (None, CYCLONEDX):
        raise typer.BadParameter(f"no format {bom!r} of a bill of materials; expected {CYCLONEDX}")
    with open_registry(ctx) as registry:
        if bom is not None:
            from composer.bill_of_materials import bill_of_materials

            sys.stdout.write(bill_of_materials(registry, ref) + "\n")
            return
        expert = _expert_unless_mix(registry, ref)
        if expert is None:
            _show_mix(registry, ref, as_json)
        else:
            _show_expert(registry, expert, as_json)


def _expert_unless_mix(registry: Registry, ref: str) -> ExpertRecord | None:
    """Return the expert of this name, or None if only a mix has it. Raises NotFoundError if nothing has it."""
    from registry.catalog.queries import get_expert, get_mix
    from registry.errors import NotFoundError

    try:
        return get_expert(registry, ref)
    except NotFoundError as error:
        try:
            get_mix(registry, ref)
        except NotFoundError:
            raise error from None
        return None


def _show_mix(registry: Registry, ref: str, as_json: bool) -> None:
    from composer.mix.opening import find_mix

    record, manifest = find_mix(registry, ref)
    if as_json:
        print_json({**mix_shape(record), "license": manifest.license})
        return
    print_fields(
        {
            "mix": record.ref,
            "extended from": record.parent,
            "seed": record.seed,
            "experts": ", ".join(record.experts),
            "warning": withdrawn_words(record),
            "licence": manifest.license,
            "licence means": licence_words(manifest.license),
            "licences combined because": manifest.license_override,
            "routing": manifest.routing_in_words,
            "manifest": record.manifest,
            "lock": record.lock,
            "quality": _quality(record.evaluation),
            "composed": record.created_at.isoformat(),
        }
    )


def _quality(evaluation: Mapping[str, Any] | None) -> str:
    from composer.evaluation.comparison import gain_kept

    if evaluation is None:
        return "not measured: run the command evaluate"
    kept = gain_kept(evaluation)
    said = f"{evaluation['mean']['mix']:.4f} bits per byte on average"
    return said if kept is None else f"{said}; keeps {share(kept)} of its experts' gain over the seed"


def _show_expert(registry: Registry, expert: ExpertRecord, as_json: bool) -> None:
    from registry.catalog.lifecycle import get_readme
    from registry.catalog.queries import list_mixes

    mixes = [mix.ref for mix in list_mixes(registry, expert=expert.ref)]
    shape = {**expert_shape(expert), "mixes": mixes, "readme": get_readme(registry, expert.ref)}
    if as_json:
        print_json(shape)
        return
    print_fields(
        {
            "expert": expert.ref,
            "about": expert.description,
            "state": expert.state,
            "withdrawn": expert.withdrawn,
            "tags": ", ".join(expert.tags),
            "authors": ", ".join(expert.authors),
            "used by": ", ".join(mixes),
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
