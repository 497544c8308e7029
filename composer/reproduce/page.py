"""The report of a reproduction: one HTML file that contains the figures, and the figures as separate files."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from composer.evaluation.report import STYLE
from composer.reproduce.figures import pictures
from composer.reproduce.tables import Table, tables

TITLE = "The paper's evaluation, reproduced"
MORE_STYLE = """
body { max-width: 76rem; } figure { margin: 1.5rem 0; } figcaption { color: #6b7280; }
tr:last-child td { border-top: 0; } table { font-size: .9rem; } td.met { color: #166534; } td.missed { color: #b91c1c; }
.wide { overflow-x: auto; } td:not(:first-child) { white-space: nowrap; } td:nth-child(2) { white-space: normal; }
"""


def write_page(out: Path, results: Mapping[str, Any]) -> Path:
    """Write the page `out`, and each figure as an SVG file in the same folder."""
    drawn = pictures(results)
    for name, (_, svg) in drawn.items():
        (out.parent / f"{name}.svg").write_text(svg, encoding="utf-8")
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for caption, svg in drawn.values()
    )
    sections = "".join(table_html(table) for table in tables(results))
    temporary = out.with_suffix(".part")
    temporary.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{TITLE}</title><style>{STYLE}{MORE_STYLE}</style><h1>{TITLE}</h1>"
        f"{_about(results)}{sections}<h2>Figures</h2>{figures}</html>\n",
        encoding="utf-8",
    )
    return temporary.replace(out)


def _about(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    domains = ", ".join(settings["members"])
    return (
        f"<p>The experts of {escape(domains)} are composed, and the mix is then extended with the expert of "
        f"{escape(settings['newcomer'])}. Each domain is measured on at most {settings['max_bytes']:,} bytes of "
        f"held-out text. Costs are in token equivalents: a trained token counts 1, and a token that is only passed "
        f"forward counts 1/3. Work on cached states counts {results['rate']:,.0f} per CPU second, the number of tokens "
        f"trained per CPU second on this machine. ± is the standard deviation over random seeds.</p>"
    )


def table_html(table: Table) -> str:
    """Return a table with its title as HTML."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td{_mark(cell)}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return (
        f"<h2>{escape(table.title)}</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _mark(cell: str) -> str:
    return f" class={cell}" if cell in ("met", "missed") else ""
