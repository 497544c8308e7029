"""Train and publish dense experts, two per corpus: python -m bench.build_experts HOME CORPORA.

For each domain, `NAME` has all parameters trained and `NAME-anchored` has a frozen trunk. The seed is the demo's
first one (bench/seed), to which all figures refer, unless another folder is given. The corpus `admin` is the seed's
own sample. Published experts are skipped, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from composer.experts.train import train_expert
from registry.catalog import queries
from registry.domains.embedders import load_embedder
from registry.errors import NotFoundError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute
from ui.demo.run import unpacked

SEED, GENERAL = "lab", "admin"
SEED_FOLDER = Path(__file__).parent / "seed"
DOMAINS = ("sql", "math", "german", "dictionary", "python")
TOKENS = 120_000
BATCH_TOKENS = 1024
LICENSE = "CC-BY-SA-4.0"  # the corpora are never shared; one licence keeps the mixes combinable


def build(registry: Registry, corpora: Path, seed: Path | None, domains: Sequence[str], tokens: int) -> None:
    """Publish the seed, then the free and the anchored expert of each domain."""
    embed_once(registry)
    try:
        queries.get_seed(registry, SEED)
    except NotFoundError:
        add_seed(
            registry,
            SEED,
            seed or unpacked(SEED_FOLDER, registry.home / "seed"),
            license=LICENSE,
            data=[corpora / GENERAL / "train.jsonl"],
        )
    for anchored in (False, True):
        for domain in domains:
            name = f"{domain}-anchored" if anchored else domain
            out = registry.home / "experts" / name
            if not out.exists():
                result = train_expert(
                    registry,
                    SEED,
                    [corpora / domain],
                    out,
                    tokens=tokens,
                    freeze_trunk=anchored,
                    batch_tokens=BATCH_TOKENS,
                )
                print(
                    f"{name}: {result.first_loss:.3f} → {result.last_loss:.3f}, {result.seconds:.0f} s",
                    file=sys.stderr,
                )
            try:
                queries.get_expert(registry, name)
            except NotFoundError:
                contribute(registry, name, out, seed=SEED, license=LICENSE, data=[corpora / domain])


def embed_once(registry: Registry) -> None:
    """Cache embeddings in this process, because both experts of a domain share its sample."""
    embedder = load_embedder(registry.embedder)
    known: dict[tuple[str, ...], np.ndarray] = {}
    encode = embedder.encode

    def remembered(texts: Sequence[str]) -> np.ndarray:
        key = tuple(texts)
        if key not in known:
            known[key] = encode(texts)
        return known[key]

    embedder.encode = remembered  # type: ignore[method-assign]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--seed", type=Path, help="folder of a seed; default: bench/seed")
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    arguments = parser.parse_args()
    registry = open_registry(arguments.home)
    build(registry, arguments.corpora, arguments.seed, arguments.domains, arguments.tokens)


if __name__ == "__main__":
    main()
