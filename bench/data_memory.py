"""Memory of reading large data: python -m bench.data_memory FOLDER [--megabytes N].

Writes one file of JSON lines to FOLDER, reads it in a new process as `contribute` and as `train-expert` do (without a
model), and prints the largest resident memory of each.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SEED_TOKENS = 500_000


def write(path: Path, megabytes: int) -> int:
    """Write rows of three random paragraphs of 100 words out of 20,000; return the number of rows."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghijklmnop", k=source.randint(2, 9))) for _ in range(5000)]
    paragraphs = [" ".join(source.choices(words, k=100)) for _ in range(20_000)]
    rows = written = 0
    with path.open("w") as file:
        while written < megabytes << 20:
            line = json.dumps({"text": "\n\n".join(source.choices(paragraphs, k=3))}) + "\n"
            file.write(line)
            written += len(line)
            rows += 1
    return rows


def contributed(path: Path) -> None:
    """Read the data as `contribute` does."""
    from registry.intake.intake import _read_text

    _read_text([path])


def trained(path: Path) -> None:
    """Read the data as `train-expert` does."""
    from registry.domains import documents
    from registry.domains.reading import read_marked

    sample = documents.Reservoir(16 * SEED_TOKENS)
    for document in read_marked(path):
        if not documents.is_held_out(document.text):
            sample.add(document)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--as", dest="reader", choices=("contribute", "train-expert"))
    given = parser.parse_args(arguments)
    path = given.folder / "rows.jsonl"
    if given.reader:
        started = time.process_time()
        (contributed if given.reader == "contribute" else trained)(path)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(
            json.dumps({"as": given.reader, "MiB": peak, "cpu_seconds": round(time.process_time() - started)})
        )
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"rows": write(path, given.megabytes), "bytes": path.stat().st_size}))
    for reader in ("contribute", "train-expert"):
        subprocess.run(
            [sys.executable, "-m", "bench.data_memory", str(given.folder), "--as", reader], check=True
        )
    path.unlink()


if __name__ == "__main__":
    main()
