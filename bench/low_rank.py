"""Compare `train: lora` and `train: all` of a merged mix on a real seed: python -m bench.low_rank HOME [--kind light].

HOME is the registry of bench.real_experts. Each composition is a whole process of one thread. The output is one
Markdown row per fine-tune: tokens per second, CPU seconds, anonymous memory, and bits per byte of the registry's
held-out text, by `nexusmix evaluate`. A share is one of the own experts' gain over the seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.processes import load_average, note, run

NEXUSMIX = Path(sys.executable).with_name("nexusmix")
# As in bench.real_experts, which imports torch; the caller of whole processes must not.
DOMAINS = ("german", "sql", "python", "math")
SEED = "smollm2"


def scores(home: Path, mix: str, max_bytes: int) -> dict[str, dict[str, float]]:
    """Return bits per byte of each domain by column."""
    words = ["--home", home, "evaluate", mix, "--max-bytes", str(max_bytes), "--json"]
    found: dict[str, Any] = json.loads(run([NEXUSMIX, *words]).output)
    return {domain: columns for domain, columns in found["bits_per_byte"].items() if "expert" in columns}


def row(home: Path, kind: str, train: str, tokens: int, max_bytes: int) -> str:
    """Compose and evaluate one mix, and return its row."""
    name = f"{kind}-trains-{train}"
    experts = ",".join(f"{domain}-{kind}" for domain in DOMAINS)
    words = ["--home", home, "compose", name, "--seed", SEED, "--experts", experts, "--preset", "merged"]
    tuning = ["--router", "linear", "--train", train, "--tokens", str(tokens), "--json"]
    note(name)
    usage = run([NEXUSMIX, *words, *tuning])
    seconds = json.loads(usage.output)["stage_seconds"]["fine-tune"]
    found = scores(home, name, max_bytes)
    means = {
        column: statistics.fmean(columns[column] for columns in found.values())
        for column in ("seed", "expert", "mix")
    }
    share = (means["seed"] - means["mix"]) / (means["seed"] - means["expert"])
    cells = [train, f"{tokens / seconds:.0f}", f"{usage.cpu:.0f}", f"{usage.anonymous * 1e6 / 2**30:.2f}"]
    cells += [f"{found[next(d for d in found if d.startswith(domain))]['mix']:.4f}" for domain in DOMAINS]
    cells += [f"{means['mix']:.4f}", f"{share:.1%}", f"{load_average():.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--kind", default="light")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--max-bytes", type=int, default=12_000)
    parser.add_argument("--train", nargs="+", default=["lora", "all"])
    given = parser.parse_args()
    columns = ["train", "tokens/s", "CPU s", "anonymous GiB", *DOMAINS, "mean", "share", "load"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for train in given.train:
        print(row(given.home, given.kind, train, given.tokens, given.max_bytes), flush=True)


if __name__ == "__main__":
    main()
