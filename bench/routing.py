"""Compare routers, selections of experts, losses and data mixes: python -m bench.routing HOME OUT [CASE …].

HOME is a registry with the experts of bench.build_experts. Each case is composed (without publishing), scored on
held-out text and written to OUT/<case>-<random seed>.json. Existing files are kept, so an interrupted run resumes.
At the end the cases are printed as a table for RESULTS.md.

Each case is the default (`nexus`), or the default with a trained router (`trained`), except for the named settings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.build_experts import SEED
from composer.composition import assemble
from composer.evaluation.evaluate import held_out_texts, score_mix, score_oracle
from composer.gathering import resolve
from composer.mix.opening import open_mix
from composer.mix.recipe import Recipe, Training
from registry.home import Registry, open_registry

MEMBERS = ("sql", "math", "german", "dictionary")
EVALUATED_BYTES = 30_000
TRAINED = {"train_router": True}
# Settings of the recipe, and of its training, per case.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nexus": ({}, {}),
    "random": ({"router": "random"}, {}),
    "linear": ({"router": "linear"}, {}),
    "top-2": ({"top_k": 2}, {}),
    "top-p 0.6": ({"top_p": 0.6}, {}),
    "top-2, 1 null expert": ({"top_k": 2, "null_experts": 1}, {}),
    "trained": ({}, TRAINED),
    "recurrent": ({"router": "recurrent"}, TRAINED),
    "trained, top-2, 2 null experts": ({"top_k": 2, "null_experts": 2}, TRAINED),
    "trained, top-p 0.6, entropy 1e-2": ({"top_p": 0.6}, {**TRAINED, "entropy": 1e-2}),
    "trained, dense to sparse over half": ({}, {**TRAINED, "dense_to_sparse": 0.5}),
    "trained, balance over the global batch": (
        {},
        {**TRAINED, "balance_over": "global_batch", "micro_batches": 2},
    ),
    "trained, z-loss 1e-3": ({}, {**TRAINED, "z_loss": 1e-3}),
    "proportional": ({}, {"data_mix": "proportional"}),
    "regmix": ({}, {"data_mix": "regmix", "regmix_runs": 12, "regmix_tokens": 2048}),
}


def run(
    registry: Registry, out: Path, case: str, random_seed: int, tokens: int, suffix: str
) -> dict[str, Any]:
    """Measure a case, or read its file if it exists."""
    path = out / f"{case}-{random_seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    recipe_settings, training_settings = CASES[case]
    training = Training(tokens=tokens, random_seed=random_seed, **training_settings)
    experts = [member + suffix for member in MEMBERS]
    recipe = Recipe(
        name="measured",
        seed=SEED,
        experts=experts,
        training=training,
        **{"trunk_merge": "regmean", **recipe_settings},
    )
    started = time.process_time()
    manifest, _ = assemble(registry, resolve(registry, recipe))
    seconds = time.process_time() - started
    texts = held_out_texts(registry, manifest, EVALUATED_BYTES)
    model = open_mix(registry, manifest).model
    refs = [member.expert.ref for member in manifest.members]
    measured = score_mix(model, refs, texts)
    measured["oracle"] = score_oracle(model, texts, {domain: place for place, domain in enumerate(texts)})
    measured |= {"training": manifest.training, "cpu_seconds": seconds}
    path.write_text(json.dumps(measured, indent=1))
    print(f"{case} {random_seed}: {figures(measured)}", file=sys.stderr, flush=True)
    return measured


def figures(measured: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one run that the table shows."""
    own = [shares[f"{domain}@1"] for domain, shares in measured["routing"].items()]
    report = measured["training"]
    spent = report.get("tokens", 0) + report.get("warm_start", {}).get("tokens", 0) / 3
    return {
        "bits per byte": statistics.mean(measured["bits_per_byte"].values()),
        "oracle": statistics.mean(measured["oracle"].values()),
        "own, mean": statistics.mean(own),
        "own, least": min(own),
        "experts per token": statistics.mean(measured["experts_per_token"].values()),
        "spent": spent + report.get("data_mix", {}).get("tokens", 0),
        "CPU s": measured["cpu_seconds"],
    }


def table(out: Path) -> str:
    """Return a Markdown table with one row per case: means over random seeds.

    Bits per byte also show the standard deviation.
    """
    runs = defaultdict(list)
    for path in out.glob("*.json"):
        runs[path.stem.rpartition("-")[0]].append(figures(json.loads(path.read_text())))
    known = [case for case in CASES if case in runs]
    names = list(runs[known[0]][0]) if known else []
    lines = [f"| case | runs | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for case in known:
        cells = []
        for name in names:
            values = [each[name] for each in runs[case]]
            value = statistics.mean(values)
            spread = f" ± {statistics.stdev(values):.3f}" if name == names[0] and len(values) > 1 else ""
            cells.append(f"{value:,.0f}" if value > 100 else f"{value:.3f}{spread}")
        lines.append(f"| {case} | {len(runs[case])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--random-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tokens", type=int, default=30_000, help="tokens of fine-tuning")
    parser.add_argument("--anchored", action="store_true", help="use the anchored experts")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    registry = open_registry(given.home)
    for random_seed in given.random_seeds:
        for case in given.cases:
            suffix = "-anchored" if given.anchored else ""
            run(registry, given.out, case, random_seed, given.tokens, suffix)
    print(table(given.out))


if __name__ == "__main__":
    main()
