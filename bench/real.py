"""Score mixes and baselines on a real seed: python -m bench.real OUT [--home HOME] [--kinds light far …] [--domains …].

HOME is the registry of bench.real_experts. The output is one table per kind of expert, with every baseline from the
same run and without any gradient step:

    seed              the dense seed
    own               each domain's dense expert on its own text; on changing text, the expert of each token's domain
    btm               each row is sent to the dense expert nearest to its first 64 tokens (baselines/btm.py)
    dume              arXiv 2603.29765 (composer/evaluation/baselines/dume.py)
    dense merging     the mean of all experts and the seed
    nexus, linear     the merged trunk with these routers and no tokens of fine-tune
    routed            whole experts, with strengths; "routed at 1": every expert as it is; "routed before the last":
                      without the last domain's expert, to compare an extension with; "routed, 50k tokens": fine-tuned

All scores are on rows of 256 tokens of the `test` parts, which are used for no choice: each domain's text, general
text, and text that changes domain in the middle of a row (changing_text.py).
A share is a share of the experts' gain over the seed. Each contender's figures are cached in a file in OUT; the next
run reuses it. The tables contain all figures measured so far.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.real_experts import DOMAINS, GENERAL, HOME, KINDS, SEED, texts_of
from composer.bits_per_byte import HeldOut, bits_per_byte, windows
from composer.composition import assemble
from composer.evaluation.baselines import btm, dume
from composer.evaluation.changing_text import (
    ChangingText,
    Choices,
    changing_text,
    measure,
    mixture_choices,
    own_expert_nats,
    stream_of,
    summary,
)
from composer.evaluation.contenders import open_dense_merging
from composer.gathering import resolve
from composer.mix.lock import LockedExpert, LockedSeed, lock_expert, lock_seed
from composer.mix.opening import Manifest, open_dense, open_expert, open_mix, open_tokenizer
from composer.mix.recipe import Recipe, Training
from composer.training.data import pack
from registry.catalog import queries
from registry.domains.embedders import load_embedder
from registry.errors import NotFoundError
from registry.home import Registry, open_registry

LENGTH = 256
SEED_COLUMN, OWN = "seed", "own"
# Contenders that depend on the random seed. nexus and linear route alike without a fine-tune and before an extension,
# because P_r reproduces the solved embeddings, which are the linear router's rows. So linear is measured once.
DRAWN = ("dume", "nexus")


@dataclass
class Lab:
    """One kind of expert and the test text for its scores."""

    registry: Registry
    kind: str
    domains: Sequence[str]
    test_bytes: int
    changing_rows: int
    collected_rows: int  # rows of training text per DUME expert
    seed: LockedSeed = field(init=False)
    tokenizer: Any = field(init=False)
    texts: dict[str, HeldOut] = field(init=False)
    changing: ChangingText = field(init=False)

    def __post_init__(self) -> None:
        self.seed = lock_seed(queries.get_seed(self.registry, SEED))
        self.tokenizer = open_tokenizer(self.registry.blobs, self.seed.files)
        self.texts = {
            domain: windows(
                self.tokenizer,
                texts_of(self.registry.home, domain, "test"),
                max_bytes=self.test_bytes,
                length=LENGTH,
            )
            for domain in (*self.domains, GENERAL)
        }
        streams = {domain: stream_of(self.texts[domain]) for domain in self.domains}
        self.changing = changing_text(self.tokenizer, streams, rows=self.changing_rows, length=LENGTH)

    @cached_property
    def experts(self) -> list[LockedExpert]:
        """The experts of this kind, one per domain. Raises NotFoundError."""
        names = [f"{domain}-{self.kind}" for domain in self.domains]
        return [lock_expert(queries.get_expert(self.registry, name)) for name in names]

    def dense(self, expert: LockedExpert) -> Any:
        """Open an expert as a dense model."""
        return open_expert(self.registry, self.seed, expert)

    def open_seed(self) -> Any:
        """Open the dense seed."""
        return open_dense(self.registry, self.seed, self.seed.ffn, self.seed.trunk)

    def score(self, model: Any, choices: Choices | None = None) -> dict[str, Any]:
        """Return bits per byte on every text, on changing text also by distance.

        With `choices`, also return the share of tokens routed to their own domain's expert.
        """
        bits: dict[str, float] = {}
        own: dict[str, float] = {}
        for domain, text in self.texts.items():
            count = (
                _Count(choices, self.domains.index(domain)) if choices and domain in self.domains else None
            )
            bits[domain] = bits_per_byte(model, text, after_batch=count)
            own |= {domain: count.hits / count.all} if count is not None else {}
        changing = measure(model, self.changing, choices)
        return {"bits_per_byte": bits, "changing": changing, **({"own_share": own} if own else {})}


@dataclass
class _Count:
    """Count of a model's choices that are one expert; called after every batch."""

    choices: Choices
    place: int
    hits: int = 0
    all: int = 0

    def __call__(self) -> None:
        chosen = self.choices()
        self.hits += int((chosen == self.place).sum())
        self.all += chosen.numel()


def score_seed(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score the seed."""
    return lab.score(lab.open_seed())


def score_own(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score each dense expert on its own domain; general text has no expert and is omitted."""
    models = [lab.dense(expert) for expert in lab.experts]
    bits = {
        domain: bits_per_byte(model, lab.texts[domain])
        for domain, model in zip(lab.domains, models, strict=True)
    }
    return {
        "bits_per_byte": bits,
        "changing": summary(lab.changing, own_expert_nats(models, lab.changing)),
    }


def score_btm(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score Branch-Train-Merge: each row is sent to the dense expert nearest by domain embedding."""
    records = [queries.get_expert(lab.registry, expert.ref) for expert in lab.experts]
    means = np.stack([record.embedding.mean for record in records])
    choose = partial(btm.nearest, lab.tokenizer, load_embedder(lab.registry.embedder), means)
    router = btm.RequestRouter([partial(lab.dense, expert) for expert in lab.experts], choose)
    return lab.score(router, router.choices)


def score_dense_merging(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score the mean of all experts and the seed."""
    return lab.score(open_dense_merging(lab.registry, lab.seed, lab.experts))


def score_dume(lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score DUME with gates from training text; the random seed selects the text."""
    started = time.process_time()
    mix = dume.open_untrained(lab.registry, SEED, [expert.ref for expert in lab.experts])
    rows = {}
    for place, domain in enumerate(lab.domains):
        texts = texts_of(lab.registry.home, domain, "train")
        random.Random(f"{random_seed}/{domain}").shuffle(texts)
        rows[place] = pack(lab.tokenizer, texts, LENGTH, lab.collected_rows)
    gates = [dume.solve(sums) for sums in dume.collect(mix.model, rows)]
    seconds = time.process_time() - started
    with dume.routed(mix.model, gates):
        return {**lab.score(mix.model, mixture_choices(mix.model)), "composing_seconds": seconds}


def score_product(router: str, lab: Lab, random_seed: int) -> dict[str, Any]:
    """Score the default recipe of nexusmix without a gradient step."""
    started = time.process_time()
    manifest = composed(lab, router, random_seed)
    seconds = time.process_time() - started
    model = open_mix(lab.registry, manifest).model
    found = lab.score(model, mixture_choices(model))
    return {**found, "composing_seconds": seconds, "training": manifest.training}


def score_routed(
    warm_start: bool, left_out: int, lab: Lab, random_seed: int, *, tokens: int = 0
) -> dict[str, Any]:
    """Whole experts, fine-tuned by `tokens`; `warm_start` measures their strengths.

    The last `left_out` experts are not in the mix. An extension by them adds columns to its router and changes
    nothing else, so the whole mix is the extended one.
    """
    started = time.process_time()
    manifest = composed(
        lab,
        "nexus",
        random_seed,
        trunk_merge="routed",
        warm_start=warm_start,
        left_out=left_out,
        tokens=tokens,
    )
    seconds = time.process_time() - started
    model = open_mix(lab.registry, manifest).model
    found = lab.score(model, mixture_choices(model))
    return {**found, "composing_seconds": seconds, "training": manifest.training}


def composed(
    lab: Lab,
    router: str,
    random_seed: int,
    *,
    trunk_merge: str = "regmean",
    warm_start: bool = True,
    left_out: int = 0,
    tokens: int = 0,
) -> Manifest:
    """The mix of all experts, not published."""
    recipe = Recipe.parse(
        {
            "name": "real",
            "seed": SEED,
            "experts": [expert.ref for expert in lab.experts][: len(lab.experts) - left_out],
            "router": router,
            "trunk_merge": trunk_merge,
            "training": Training(tokens=tokens, warm_start=warm_start, random_seed=random_seed),
        }
    )
    return assemble(lab.registry, resolve(lab.registry, recipe))[0]


CONTENDERS: Mapping[str, Callable[[Lab, int], dict[str, Any]]] = {
    SEED_COLUMN: score_seed,
    OWN: score_own,
    "btm": score_btm,
    "dume": score_dume,
    "dense merging": score_dense_merging,
    "nexus": partial(score_product, "nexus"),
    "linear": partial(score_product, "linear"),
    "routed": partial(score_routed, True, 0),
    "routed at 1": partial(score_routed, False, 0),
    "routed before the last": partial(score_routed, True, 1),
    "routed, 50k tokens": partial(score_routed, True, 0, tokens=50_000),
}


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
        paths = folder_of(out, kind, contender).glob(f"{_file_name(contender)}-[0-9]*.json")
        found[contender] = [json.loads(path.read_text()) for path in sorted(paths)]
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
