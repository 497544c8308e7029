"""The model card of an export: README.md with the mix's parts, their digests and licences, and its measurements.

Its front matter follows the Hugging Face Hub's metadata of model cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from composer.chat.templates import exported_template
from composer.evaluation.comparison import gain_kept, text_bytes
from composer.evaluation.contenders import TITLES, score_rows
from composer.evaluation.heatmap import routing_svg
from composer.mix.named_blobs import own_weights, weights_of
from composer.mix.opening import Manifest
from composer.variants import EXPORT_FORMATS
from registry.catalog import queries
from registry.errors import LicenseError
from registry.home import Registry
from registry.hub_licenses import tag_of
from registry.licenses import obligations
from registry.records import ExpertRecord, MixRecord, SeedRecord

HEAT_MAP_FILE = "routing.svg"


def card_files(registry: Registry, record: MixRecord, manifest: Manifest, format: str) -> dict[str, bytes]:
    """Return README.md and, if the mix has been evaluated, the routing heat map."""
    evaluation = record.evaluation
    refs = [member.expert.ref for member in manifest.members]
    seed, experts = queries.get_parts(registry, manifest.seed.name, refs)
    parts = [
        _front_matter(record, manifest, experts, format),
        f"# {_text(record.ref)}\n",
        _usage(format, chats=exported_template(registry.blobs, manifest) is not None),
        _parts(manifest, seed, experts),
    ]
    files = {}
    if evaluation is not None:
        parts += [_measurements(evaluation), _tasks(evaluation.get("tasks", {}))]
        files[HEAT_MAP_FILE] = routing_svg(evaluation["routing"]).encode()
    parts.append(_digests(record, manifest, seed, experts))
    return {"README.md": "\n".join(parts).encode(), **files}


def _front_matter(record: MixRecord, manifest: Manifest, experts: Sequence[ExpertRecord], format: str) -> str:
    license = manifest.license
    tag = tag_of(license)
    data: dict[str, Any] = {
        "library_name": EXPORT_FORMATS[format].load().library,
        "pipeline_tag": "text-generation",
        "license": tag,
    }
    if tag == "other":
        data["license_name"] = license
    if bases := [repository for expert in experts if (repository := _repository(expert))]:
        data |= {"base_model": bases, "base_model_relation": "merge"}
    data["tags"] = ["mixture-of-experts", "moe", "merge", "nexus"]
    if record.evaluation is not None:
        data["model-index"] = [{"name": record.ref, "results": _results(record.evaluation)}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _repository(expert: ExpertRecord) -> str | None:
    """Return the repository on the Hub that the expert was downloaded from, `owner/name`; None if it was a folder."""
    source = str(expert.provenance.get("source", ""))
    return source.removeprefix("hf:").partition("@")[0] if source.startswith("hf:") else None


def _results(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the mix's bits per byte by domain, as the Hub's model index."""
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"type": "held-out", "name": domain},
            "metrics": [{"type": "bits_per_byte", "name": "bits per byte", "value": round(row["mix"], 4)}],
        }
        for domain, row in evaluation["bits_per_byte"].items()
        if "mix" in row
    ]


def _usage(format: str, *, chats: bool) -> str:
    row = EXPORT_FORMATS[format]
    loaded = row.load()
    about = (
        "A [Nexus](https://arxiv.org/abs/2408.15901) mixture of dense experts that branched from one seed."
    )
    chatting = f"\n### Chat\n\n{loaded.chatting}" if chats else ""
    return f"{about} {row.summary}\n\n## Use\n\n{loaded.loading}{chatting}"


def _parts(manifest: Manifest, seed: SeedRecord, experts: Sequence[ExpertRecord]) -> str:
    rows = [["seed, the shared expert", seed.name, seed.license, seed.description]]
    for member, expert in zip(manifest.members, experts, strict=True):
        rows.append(["routed expert", expert.ref, member.expert.license, expert.description])
    facts = [
        f"Licence of the mix: {_text(manifest.license)}.",
        manifest.routing_in_words,
    ]
    only = _non_commercial(manifest.license)
    if only:
        facts.append(f"Non-commercial use only, because of {_text(' and '.join(only))}.")
    if manifest.license_override:
        facts.append(
            f"The licences are incompatible. Reason given for combining them: {_text(manifest.license_override)}."
        )
    table = _table(["role", "base model", "licence", "description"], rows)
    return "\n".join(["## Base models\n", table, *(f"\n{fact}" for fact in facts), ""])


def _non_commercial(license: str) -> list[str]:
    try:
        return obligations(license)["non_commercial"]
    except LicenseError:  # written by another version
        return []


def _measurements(evaluation: Mapping[str, Any]) -> str:
    columns, rows = score_rows(evaluation)
    table = _table(
        ["domain", *(TITLES.get(column, column) for column in columns)],
        [[name, *map(_score, row)] for name, row in rows.items()],
    )
    count = text_bytes(evaluation)
    amount = "" if count is None else f"{count:,} bytes of "
    kept = gain_kept(evaluation)
    summary = "" if kept is None else f"\nThe mix keeps {kept:.0%} of its experts' gain over the seed.\n"
    return f"""\
## Measurements
{summary}
Bits per byte on {amount}held-out text of each domain; lower is better.

{table}

![Share of each domain's tokens routed to each expert]({HEAT_MAP_FILE})
"""


def _tasks(tasks: Mapping[str, Any]) -> str:
    """Return the scores of tasks of lm-evaluation-harness, one row per task and metric; empty without tasks."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for task, result in tasks.items():
        for column, metrics in result["metrics"].items():
            for metric, value in metrics.items():
                if not metric.endswith("_stderr"):
                    rows.setdefault((task, metric), {})[column] = value
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    if not columns:
        return ""
    table = _table(
        ["task", "metric", *(TITLES.get(column, column) for column in columns)],
        [[*name, *(_score(row.get(column)) for column in columns)] for name, row in rows.items()],
    )
    return f"### Tasks of lm-evaluation-harness\n\n{table}\n"


def _digests(record: MixRecord, manifest: Manifest, seed: SeedRecord, experts: Sequence[ExpertRecord]) -> str:
    """Return the sha256 of every part, with which each of them can be identified in a registry."""
    rows = [[record.ref, "manifest", record.manifest], [record.ref, "lock", record.lock]]
    rows += [[record.ref, part, digest] for part, digest in own_weights(manifest).items()]
    rows += [[seed.name, "FFNs", seed.ffn], [seed.name, "trunk", seed.trunk]]
    if seed.sample is not None:
        rows.append([seed.name, "sample of its text", seed.sample])
    for expert in experts:
        rows += [[expert.ref, part, digest] for part, digest in weights_of(expert).items()]
        rows.append([expert.ref, "sample of its text", expert.sample or expert.embedding.sample_sha256])
        if "source" in expert.provenance:
            rows.append([expert.ref, "source", str(expert.provenance["source"])])
    cells = [[owner, part, digest.removeprefix("sha256:")] for owner, part, digest in rows]
    return f"## Digests\n\nThe sha256 of each part.\n\n{_table(['model', 'part', 'sha256'], cells)}\n"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(text: str) -> str:
    """Return untrusted text as plain text on one line, with the markup of Markdown and HTML escaped."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return re.sub(r"([\\`*_\[\]<>|&#!$])", r"\\\1", line)
