"""Run the paper's evaluation with our settings: python -m bench.paper HOME CORPORA OUT.

HOME is a registry with the experts of bench.build_experts; missing experts are trained. CORPORA is the folder of
their training text. Runs `nexusmix reproduce` with python as the expert that is added last, and prints the tables
for RESULTS.md. With `--publish` the pictures are copied to bench/paper.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.build_experts import GENERAL, SEED
from composer.reproduce.run import reproduce
from composer.reproduce.tables import Table, tables
from registry.home import open_registry

NEWCOMER = "python"
PICTURES = Path(__file__).parent / "paper"


def markdown(table: Table) -> str:
    """Return a table of the report as Markdown."""
    lines = [f"**{table.title}**", "", _row(table.head), _row(["---"] * len(table.head))]
    return "\n".join([*lines, *map(_row, table.rows), ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _progress(stage: str, done: int, total: int) -> None:
    if stage.startswith("measuring"):
        print(f"{stage}: {done} done", file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", nargs="+", default=[], metavar="CASE", help="measure only these cases")
    parser.add_argument("--publish", action="store_true", help="copy the pictures to bench/paper")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = reproduce(
        open_registry(given.home),
        SEED,
        given.corpora,
        given.out,
        newcomer=NEWCOMER,
        general=GENERAL,
        only=given.cases,
        progress=_progress,
    )
    print("\n".join(map(markdown, tables(results))))
    if given.publish:
        PICTURES.mkdir(exist_ok=True)
        for picture in given.out.glob("*.svg"):
            shutil.copy(picture, PICTURES / picture.name)


if __name__ == "__main__":
    main()
