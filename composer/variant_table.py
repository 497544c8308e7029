"""Tables of the documents, written from the rows of the code.

python -m composer.variant_table README.md docs/COMMANDS.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from composer.mix.research import OPTIONS
from composer.variants import EXPORT_FORMATS, ROUTERS, TRUNK_MERGES
from registry.checkpoints.family_table import FAMILIES

TABLES = (ROUTERS, TRUNK_MERGES, EXPORT_FORMATS)


def markdown() -> str:
    """Two tables: the proven variants with the model families, and the research variants with their verdicts."""
    lines = ["| Kind | Name | Summary | Reference |", "|---|---|---|---|"]
    for table in TABLES:
        lines += [
            f"| {table.kind} | `{row.name}` | {row.summary} | {row.reference} |"
            for row in table.rows(research=False)
        ]
    families = " · ".join(f"`{name}`" for name in sorted(FAMILIES))
    lines += [f"| model family | {families} | Seeds and experts of these types. | |", ""]
    lines += ["Research variants, without a clear measured gain:", ""]
    lines += ["| Kind | Name | Summary | Verdict | Reference |", "|---|---|---|---|---|"]
    for table in TABLES:
        lines += [
            f"| {table.kind} | `{row.name}` | {row.summary} | {row.verdict} | {row.reference} |"
            for row in table.rows(research=True)
        ]
    return "\n".join(lines)


def research_options() -> str:
    """Table of the research options of a recipe, with one line per research value where only some values count."""
    lines = ["| Option | Meaning | Verdict |", "|---|---|---|"]
    for option in OPTIONS.values():
        for row in option.rows():
            lines.append(f"| `{option.name}: {row.name}` | {row.summary} | {row.verdict} |")
        if option.variants is None:
            lines.append(f"| `{option.name}` | {option.summary} | {option.verdict} |")
    return "\n".join(lines)


SECTIONS = {"variants": markdown, "research options": research_options}


def rewritten(document: str) -> str:
    """Return the document with its current tables. Raises ValueError if it has no markers of a table."""
    found = False
    for name, write in SECTIONS.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = document.partition(begin)
        _, ended, after = rest.partition(end)
        if ended:
            document, found = f"{before}{begin}\n{write()}\n{end}{after}", True
    if not found:
        raise ValueError(
            f"the document has no markers <!-- NAME --> … <!-- end of NAME --> of {', '.join(SECTIONS)}"
        )
    return document


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
