"""Measures the router and the short fine-tune: python -m bench.router HOME OUT [CASE …] [--random-seeds 0 1 2].

HOME is a registry with the experts of bench.build_experts. Each case and random seed is composed, evaluated on
held-out text and written to OUT/<case>-<random seed>.json; what is there already is left alone, so a run that was
stopped goes on. `--table` prints means and deviations of what there is.

A budget is counted in token equivalents: a token trained counts 1, a token passed forward 1/3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from composer.compose import ComposeResult, compose
from composer.evaluate import evaluate
from composer.extend import extend
from composer.recipe import Recipe, Training
from registry.home import Registry, open_registry

SEED, MEMBERS, NEWCOMER = "lab", ("sql", "math", "german", "dictionary"), "python"
EVALUATED_BYTES = 30_000


@dataclass(frozen=True)
class Case:
    """A composition, or with `parent` its extension by the newcomer. `training` are its settings."""

    training: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    anchored: bool = False
    parent: str | None = None


PAPER = {"router": "linear", "combine": "additive"}
COLD = {"warm_start": False}
CASES = {
    "warm": Case({"tokens": 0}),
    "warm-anchored": Case({"tokens": 0}, anchored=True),
    "warm-extended": Case({"tokens": 0}, parent="warm"),
    "warm-anchored-extended": Case({"tokens": 0}, anchored=True, parent="warm-anchored"),
    "warm-resolved": Case({"tokens": 0, "train_router": True}, parent="warm"),
    "warm-anchored-resolved": Case(
        {"tokens": 0, "train_router": True}, anchored=True, parent="warm-anchored"
    ),
    "ours-60k": Case({"tokens": 12_000}),
    "ours-100k": Case({"tokens": 52_000}),
    "ours-100k-balance/100": Case({"tokens": 52_000, "load_balance": 1e-4}),
    "paper-300k": Case({"tokens": 300_000, **COLD}, PAPER),
    "paper-100k": Case({"tokens": 100_000, **COLD}, PAPER),
    "ours-100k-extended-78k": Case({"tokens": 20_000}, parent="ours-100k"),
    "paper-100k-extended-78k": Case({"tokens": 78_000, **COLD}, parent="paper-100k"),
    "ours-100k-anchored": Case({"tokens": 52_000, "train": "router"}, anchored=True),
}


def run(
    registry: Registry, out: Path, name: str, random_seed: int, overrides: dict[str, Any]
) -> dict[str, Any]:
    """The measured case, from its file if it was measured before."""
    path = out / f"{name.replace('/', '_')}-{random_seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    case = CASES[name]
    training = Training(**{**case.training, **overrides, "random_seed": random_seed})
    suffix = "-anchored" if case.anchored else ""
    started = time.process_time()
    if case.parent is not None:
        parent = run(registry, out, case.parent, random_seed, overrides)
        result = extend(registry, parent["mix"], NEWCOMER + suffix, training=training)
    else:
        recipe = Recipe(
            name=f"{name.replace('/', '-over-')}-{random_seed}",
            seed=SEED,
            experts=[member + suffix for member in MEMBERS],
            training=training,
            **case.recipe,
        )
        result = compose(registry, recipe)
    measured = measure(registry, result) | {"cpu_seconds": time.process_time() - started}
    path.write_text(json.dumps(measured, indent=1))
    print(f"{name} {random_seed}: {summary(measured)}", file=sys.stderr, flush=True)
    return measured


def measure(registry: Registry, result: ComposeResult) -> dict[str, Any]:
    """What a mix scores, and the token equivalents that its last step took."""
    evaluation = evaluate(registry, result.mix.ref, max_bytes=EVALUATED_BYTES)
    report = result.manifest.training
    spent = report.get("tokens", 0) + report.get("warm_start", {}).get("tokens", 0) / 3
    return evaluation | {"equivalents": spent}


def figures(measured: dict[str, Any]) -> dict[str, float]:
    """The figures of one run that are averaged over runs."""
    scores, routing = measured["bits_per_byte"], measured["routing"]
    found = {"mean": measured["mean"]["mix"], "spent": measured["equivalents"]}
    for domain, row in scores.items():
        plain = domain.removesuffix("-anchored")
        found[f"{plain} bits"] = row["mix"]
        found[f"{plain} own"] = routing[domain][f"{domain}@1"]
        if plain == NEWCOMER:
            found["gain kept"] = (row["seed"] - row["mix"]) / (row["seed"] - row["expert"])
    old = [row["mix"] for domain, row in scores.items() if not domain.startswith(NEWCOMER)]
    return found | {"old": statistics.mean(old)}


def summary(measured: dict[str, Any]) -> str:
    """One line of figures."""
    return " ".join(f"{name} {value:.3f}" for name, value in figures(measured).items())


def table(out: Path) -> str:
    """Mean ± deviation over random seeds, one line for each case."""
    runs = defaultdict(list)
    for path in sorted(out.glob("*.json")):
        runs[path.stem.rpartition("-")[0]].append(figures(json.loads(path.read_text())))
    lines = []
    for case, found in runs.items():
        cells = []
        for name in found[0]:
            values = [each[name] for each in found]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{name} {statistics.mean(values):.3f}{spread}")
        lines.append(f"{case} (n={len(found)}): " + ", ".join(cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--random-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set", type=json.loads, default={}, help="training settings as JSON, for every case"
    )
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        registry = open_registry(given.home)
        for random_seed in given.random_seeds:
            for case in given.cases:
                run(registry, given.out, case, random_seed, given.set)
    print(table(given.out))


if __name__ == "__main__":
    main()
