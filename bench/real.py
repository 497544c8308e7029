"""Score mixes and baselines on a real seed: python -m bench.real OUT [--home HOME] [--kinds light far …] [--domains …].

HOME is the registry of bench.real_experts. The output is one table per kind of expert, with every baseline from the
same run:

    seed              the dense seed
    own               each domain's dense expert on its own text; on changing text, the expert of each token's domain
    btm               each row is sent to the dense expert nearest to its first 64 tokens (baselines/btm.py)
    dume              arXiv 2603.29765 (composer/evaluation/baselines/dume.py)
    dense merging     the mean of all experts and the seed
    nexus, linear     the merged trunk with these routers and no tokens of fine-tune
    routed            whole experts, with strengths
      at 1            every expert as it is
      before the last without the last domain's expert, to compare an extension with
      signatures alone  the owners share a token profile and a strength each, and no text

`50k tokens` means fine-tuned; the others have no gradient step.

All scores are on rows of 256 tokens of the `test` parts, which are used for no choice: each domain's text, general
text, and text that changes domain in the middle of a row (changing_text.py).
A share is a share of the experts' gain over the seed. Each contender's figures are cached in a file in OUT; the next
run reuses it. The tables contain all figures measured so far.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.real_contenders import CONTENDERS, DRAWN, OWN, SEED_COLUMN, Lab
from bench.real_experts import DOMAINS, GENERAL, HOME, KINDS
from registry.errors import NotFoundError
from registry.home import open_registry


def run(lab: Lab, out: Path, contender: str, random_seed: int) -> None:
    """Measure a contender unless its file exists."""
    path = folder_of(out, lab.kind, contender) / f"{_file_name(contender)}-{random_seed}.json"
    if path.exists():
        return
    found = CONTENDERS[contender](lab, random_seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    print(f"{lab.kind} {contender} {random_seed}: {json.dumps(found)}", file=sys.stderr, flush=True)


def read(out: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    """Read the figures of a kind by contender, one entry per random seed."""
    found = {}
    for contender in CONTENDERS:
        name = re.compile(rf"{re.escape(_file_name(contender))}-\d+\.json")
        paths = folder_of(out, kind, contender).glob("*.json")
        found[contender] = [
            json.loads(path.read_text()) for path in sorted(paths) if name.fullmatch(path.name)
        ]
    return found


def folder_of(out: Path, kind: str, contender: str) -> Path:
    """Folder of a contender's figures; the seed's figures are shared by all kinds of expert."""
    return out if contender == SEED_COLUMN else out / kind


def _file_name(contender: str) -> str:
    return contender.replace(",", "").replace(" ", "-")


def table(found: Mapping[str, Sequence[dict[str, Any]]], domains: Sequence[str]) -> str:
    """Return two Markdown tables: bits per byte with shares of the experts' gain, and changing text by distance."""
    lines = [
        _row(["", *domains, "mean", "share", "own share", "general", "changing", "share"]),
        _row(["---"] * (len(domains) + 7)),
    ]
    known = {contender: runs for contender, runs in found.items() if runs}
    for contender, runs in known.items():
        bits = [run["bits_per_byte"] for run in runs]
        means = [statistics.mean(run[domain] for domain in domains) for run in bits]
        changing = [run["changing"]["bits_per_byte"] for run in runs]
        own = [run["own_share"][domain] for run in runs if "own_share" in run for domain in domains]
        lines.append(
            _row(
                [
                    f"{contender} (n = {len(runs)})" if contender in DRAWN else contender,
                    *(_spread([run[domain] for run in bits]) for domain in domains),
                    _spread(means),
                    _share(
                        found, means, lambda run: statistics.mean(run["bits_per_byte"][d] for d in domains)
                    ),
                    f"{statistics.mean(own):.2f}, least {min(own):.2f}" if own else "",
                    _spread([run[GENERAL] for run in bits]) if GENERAL in bits[0] else "–",
                    _spread(changing),
                    _share(found, changing, lambda run: run["changing"]["bits_per_byte"]),
                ]
            )
        )
    return "\n".join([*lines, "", *_by_distance(known)])


def _by_distance(known: Mapping[str, Sequence[dict[str, Any]]]) -> list[str]:
    """Return the table of changing text by distance from the change: bits per byte and, if routed, the own share."""
    first = next(iter(known.values()))[0]["changing"]["by_distance"]
    lines = [_row(["bits per byte (own share)", *first]), _row(["---"] * (len(first) + 1))]
    for contender, runs in known.items():
        cells = []
        for group in first:
            told = [run["changing"]["by_distance"][group] for run in runs]
            bits = statistics.mean(each["bits_per_byte"] for each in told)
            own = [each["own"] for each in told if "own" in each]
            cells.append(f"{bits:.4f}" + (f" ({statistics.mean(own):.2f})" if own else ""))
        lines.append(_row([contender, *cells]))
    return lines


def _share(
    found: Mapping[str, Sequence[dict[str, Any]]],
    values: Sequence[float],
    figure: Callable[[dict[str, Any]], float],
) -> str:
    if not found[SEED_COLUMN] or not found[OWN]:
        return ""
    seed, own = (figure(found[column][0]) for column in (SEED_COLUMN, OWN))
    return f"{(seed - statistics.mean(values)) / (seed - own):.1%}"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS))
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=tuple(CONTENDERS))
    parser.add_argument("--random-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test-bytes", type=int, default=12_000, help="bytes of test text per domain")
    parser.add_argument("--changing-rows", type=int, default=16)
    parser.add_argument(
        "--collected-rows", type=int, default=16, help="rows of training text per DUME expert"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    registry = open_registry(given.home)
    for kind in given.kinds:
        lab = Lab(registry, kind, given.domains, given.test_bytes, given.changing_rows, given.collected_rows)
        try:
            for random_seed in given.random_seeds:
                for contender in given.contenders:
                    if random_seed == given.random_seeds[0] or contender in DRAWN:
                        run(lab, given.out, contender, random_seed)
        except NotFoundError as error:
            print(f"{kind}: {error}; train it with python -m bench.real_experts", file=sys.stderr)
            continue
        print(f"**{kind}**\n\n{table(read(given.out, kind), given.domains)}", flush=True)


if __name__ == "__main__":
    main()
