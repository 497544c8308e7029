"""The README's table of variants, written from their rows: `python -m composer.variant_table README.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from composer.variants import EXPORT_FORMATS, ROUTERS, TRUNK_MERGES
from registry.checkpoints.family_table import FAMILIES

BEGIN, END = "<!-- variants -->", "<!-- end of variants -->"


def markdown() -> str:
    """One row per router, trunk merge and export format, and one for the model families."""
    lines = ["| Kind | Name | Summary | Reference |", "|---|---|---|---|"]
    for table in (ROUTERS, TRUNK_MERGES, EXPORT_FORMATS):
        lines += [
            f"| {table.kind} | `{row.name}` | {row.summary} | {row.reference} |" for row in table.values()
        ]
    families = " · ".join(f"`{name}`" for name in sorted(FAMILIES))
    return "\n".join([*lines, f"| model family | {families} | Seeds and experts of these types. | |"])


def rewritten(document: str) -> str:
    """The document with its table as it is now. Raises ValueError where the markers are absent."""
    before, _, rest = document.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the document has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{markdown()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
