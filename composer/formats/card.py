"""The model card of an export: README.md with the mix's seed and experts, its licences and its measurements."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from composer.evaluation.contenders import TITLES, score_rows
from composer.evaluation.heatmap import routing_svg
from composer.mix.opening import Manifest
from composer.variants import EXPORT_FORMATS
from registry.catalog import queries
from registry.home import Registry
from registry.hub_licenses import tag_of
from registry.records import MixRecord

HEAT_MAP_FILE = "routing.svg"


def card_files(registry: Registry, record: MixRecord, manifest: Manifest, format: str) -> dict[str, bytes]:
    """Return README.md and, if the mix has been evaluated, the routing heat map."""
    evaluation = record.evaluation
    parts = [
        _front_matter(manifest, format),
        f"# {_text(record.ref)}\n",
        _usage(format),
        _parts(registry, manifest),
    ]
    files = {}
    if evaluation is not None:
        parts.append(_measurements(evaluation))
        files[HEAT_MAP_FILE] = routing_svg(evaluation["routing"]).encode()
    return {"README.md": "\n".join(parts).encode(), **files}


def _front_matter(manifest: Manifest, format: str) -> str:
    license = manifest.license
    tag = tag_of(license)
    lines = [f"library_name: {EXPORT_FORMATS[format].load().library}", "pipeline_tag: text-generation"]
    lines.append(f"license: {tag}")
    if tag == "other":
        lines.append(f"license_name: '{license}'")
    tags = ["mixture-of-experts", "moe", "merge", "nexus"]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""])


def _usage(format: str) -> str:
    row = EXPORT_FORMATS[format]
    about = (
        "A [Nexus](https://arxiv.org/abs/2408.15901) mixture of dense experts that branched from one seed."
    )
    return f"{about} {row.summary}\n\n{row.load().loading}"


def _parts(registry: Registry, manifest: Manifest) -> str:
    seed = queries.get_seed(registry, manifest.seed.name)
    rows = [["seed, the shared expert", seed.name, seed.license, seed.description]]
    for member in manifest.members:
        expert = queries.get_expert(registry, member.expert.ref)
        rows.append(["routed expert", expert.ref, member.expert.license, expert.description])
    facts = [
        f"Licence of the mix: {_text(manifest.license)}.",
        manifest.routing_in_words,
    ]
    if manifest.license_override:
        facts.append(
            f"The licences are incompatible. Reason given for combining them: {_text(manifest.license_override)}."
        )
    table = _table(["role", "base model", "licence", "description"], rows)
    return "\n".join(["## Base models\n", table, *(f"\n{fact}" for fact in facts), ""])


def _measurements(evaluation: Mapping[str, Any]) -> str:
    columns, rows = score_rows(evaluation)
    table = _table(
        ["domain", *(TITLES.get(column, column) for column in columns)],
        [[name, *map(_score, row)] for name, row in rows.items()],
    )
    return f"""\
## Measurements

Bits per byte on held-out text of each domain; lower is better.

{table}

![Share of each domain's tokens routed to each expert]({HEAT_MAP_FILE})
"""


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(text: str) -> str:
    """Return untrusted text as plain text on one line, with the markup of Markdown and HTML escaped."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return re.sub(r"([\\`*_\[\]<>|&#!$])", r"\\\1", line)
