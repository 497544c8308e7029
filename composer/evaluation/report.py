"""The report of evaluated mixes: one self-contained HTML file with tables and routing heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from composer.errors import RecipeError
from composer.evaluation.comparison import text_bytes, unlike_domains
from composer.evaluation.contenders import TITLES, score_rows
from composer.evaluation.heatmap import routing_svg
from composer.mix.opening import read_manifest
from registry.catalog import queries
from registry.home import Registry
from registry.records import MixRecord

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; background: #fff; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #e5e7eb; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; color: #6b7280; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #e5e7eb; text-align: right; }
th:first-child, td:first-child { text-align: left; } td.best { font-weight: 650; color: #174ea6; }
tr:last-child td { border-top: 2px solid #9ca3af; } pre { background: #f3f4f6; padding: 1rem; overflow-x: auto;
       white-space: pre-wrap; } svg { max-width: 100%; height: auto; } code { font-size: .9em; }
"""


def write_report(
    registry: Registry,
    refs: Sequence[str],
    out: Path,
    *,
    title: str = "Evaluated mixes",
    samples: Sequence[tuple[str, str, str]] = (),
    findings: Sequence[tuple[str, bool]] = (),
) -> Path:
    """Write the newest evaluation of each mix as HTML to `out`.

    `samples` are (mix, prompt, continuation), `findings` are (claim, whether it is true). Raises NotFoundError, and
    RecipeError if a mix was never evaluated.
    """
    records = [queries.get_mix(registry, ref) for ref in refs]
    sections = [_section(registry, record) for record in records]
    if unlike := unlike_domains([record.evaluation for record in records if record.evaluation]):
        sections.insert(0, _warning(unlike))
    if findings:
        sections.insert(0, _findings(findings))
    if samples:
        sections.append("<h2>Samples</h2>" + "".join(_sample(*sample) for sample in samples))
    out.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{''.join(sections)}</html>\n",
        encoding="utf-8",
    )
    return out


def _section(registry: Registry, record: MixRecord) -> str:
    if record.evaluation is None:
        raise RecipeError(f"{record.ref} was never evaluated: run `nexusmix evaluate {record.ref}`")
    manifest = read_manifest(registry, record.manifest)
    origin = f"extended from {record.parent}" if record.parent else "composed"
    return (
        f"<h2>{escape(record.ref)}</h2><p>{escape(origin)} on the seed <b>{escape(record.seed)}</b> · experts "
        f"{escape(', '.join(record.experts))} · {manifest.routing_label} · "
        f"licence {escape(manifest.license)} · lock <code>{record.lock[:19]}…</code></p>"
        + _scores(record.evaluation)
        + routing_svg(record.evaluation["routing"])
    )


def _scores(evaluation: Mapping[str, Any]) -> str:
    columns, rows = score_rows(evaluation)
    head = "".join(f"<th>{escape(TITLES.get(column, column))}</th>" for column in columns)
    body = "".join(f"<tr><td>{escape(name)}</td>{_cells(row)}</tr>" for name, row in rows.items())
    return (
        f"<table><caption>Bits per byte on {_text(evaluation)}; lower is better; each row's best is bold</caption>"
        f"<thead><tr><th>domain</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cells(row: Sequence[float | None]) -> str:
    best = min(score for score in row if score is not None)
    return "".join(
        "<td>–</td>" if score is None else f"<td{' class=best' if score == best else ''}>{score:.3f}</td>"
        for score in row
    )


def _text(evaluation: Mapping[str, Any]) -> str:
    count = text_bytes(evaluation)
    return "held-out text" if count is None else f"{count:,} bytes of held-out text"


def _warning(domains: Sequence[str]) -> str:
    return (
        f"<p><strong>Not all of these mixes were measured on the same text</strong> ({escape(', '.join(domains))}): "
        "compare scores only within one table, or evaluate the mixes again.</p>"
    )


def _findings(findings: Sequence[tuple[str, bool]]) -> str:
    items = "".join(f"<li>{'✓' if held else '✗'} {escape(claim)}</li>" for claim, held in findings)
    return f"<h2>Findings</h2><ul>{items}</ul>"


def _sample(mix: str, prompt: str, continuation: str) -> str:
    return f"<p>{escape(mix)}</p><pre><b>{escape(prompt)}</b>{escape(continuation)}</pre>"
