"""Fill a registry with many artificial experts: `python -m bench.crowd HOME --experts 10000`.

Seeds are published as usual. The rows of all experts are inserted in one transaction, because `publish_expert`
commits once per expert. Experts share a few small blobs. A domain is a set of random unit vectors around a random
topic, in the dimension of the registry's embedder and with the largest allowed number of centroids. Descriptions are
made of random words.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np

from registry.catalog.publish import publish_seed
from registry.database.rows import encode_embedding, find_seed
from registry.database.schema import Blob, Expert, Seed
from registry.domains.embedding import MAX_CENTROIDS, load_embedder
from registry.home import Registry, open_registry
from registry.names import name_key
from registry.records import DomainEmbedding, EmbedderId

SEEDS = {"smol": 0.8, "tiny": 0.15, "base": 0.05}  # seed: share of experts that branch from it
LICENSES = ("MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "GPL-3.0-only")
TOPICS = 40
SPREAD = 0.6  # length of the noise around a topic's direction
WORDS = """
law contract court tax python parser compiler template algebra proof geometry statistics german french poetry
drama cooking garden medicine dosage anatomy chemistry polymer physics orbit weather sailing chess music harmony
history trade logistics invoice support dialogue summary translation sql query network kernel
""".split()  # noqa: SIM905 - a list literal would be much longer
ABOUT = "Trained on {} texts about {} and {}, {} documents from {} sources; best at {}."


def fill(registry: Registry, experts: int, *, random_seed: int = 0) -> None:
    """Add the seeds and `experts` rows; every fiftieth row is a second version of the expert before it."""
    draw, numbers = random.Random(random_seed), np.random.default_rng(random_seed)
    blobs = {name: registry.blobs.put_bytes(name.encode()) for name in ("ffn", "trunk", "own trunk")}
    for name in SEEDS:
        _add_seed(registry, name, blobs)
    embedder = load_embedder(registry.embedder).id
    topics = _unit(numbers.standard_normal((TOPICS, embedder.dimension)))
    with registry.session() as session:
        seeds = [find_seed(session, name) for name in SEEDS]
        session.add(Blob(digest=blobs["own trunk"], size=registry.blobs.size(blobs["own trunk"])))
        for number in range(experts):
            again = number % 50 == 49
            name = _name(number - 1 if again else number)
            topic = topics[int(numbers.integers(TOPICS))]
            row = _expert(draw, name, 2 if again else 1, draw.choices(seeds, list(SEEDS.values()))[0], blobs)
            row.embedding = encode_embedding(_domain(numbers, topic, embedder))
            session.add(row)
            if number % 1_000 == 999:
                session.flush()
                session.expunge_all()
                seeds = [find_seed(session, name) for name in SEEDS]


def _add_seed(registry: Registry, name: str, blobs: dict[str, str]) -> None:
    publish_seed(
        registry,
        name=name,
        license="Apache-2.0",
        description=f"the seed {name}",
        model_type="llama",
        config={"model_type": "llama"},
        dtype="BF16",
        parameters=135_000_000,
        ffn=blobs["ffn"],
        trunk=blobs["trunk"],
        files={"config.json": registry.blobs.put_bytes(b"{}")},
        sample=None,
        held_out=None,
        chunk_vectors=None,
    )


def _name(number: int) -> str:
    words = random.Random(number)
    return f"{words.choice(WORDS)}-{words.choice(WORDS)}-{number:05}"


def _expert(draw: random.Random, name: str, version: int, seed: Seed, blobs: dict[str, str]) -> Expert:
    anchored = draw.random() < 0.3
    values: dict[str, Any] = {
        "license": draw.choice(LICENSES),
        "dtype": "BF16",
        "parameters": draw.randrange(100_000_000, 2_000_000_000),
        "ffn_width": 1536,
        "ffn": blobs["ffn"],
        "trunk": blobs["trunk" if anchored else "own trunk"],
        "anchored": anchored,
        "provenance": {"trained_tokens": draw.randrange(10**6, 10**9)},
        "description": ABOUT.format(
            *draw.sample(WORDS, 3), draw.randrange(10**3, 10**6), draw.randrange(2, 90), draw.choice(WORDS)
        ),
    }
    return Expert(name=name, name_key=name_key(name), version=version, seed=seed, **values)


def _domain(numbers: np.random.Generator, topic: np.ndarray, embedder: EmbedderId) -> DomainEmbedding:
    """A domain of MAX_CENTROIDS unit centroids [c, m] and a card [2, m] around a topic [m].

    Without a card, the first search that finds an expert would compute it from its words, in 50 ms.
    """
    noise = _unit(numbers.standard_normal((MAX_CENTROIDS, embedder.dimension))) * SPREAD
    centroids = _unit(topic + noise).astype(np.float32)
    weights = np.full(MAX_CENTROIDS, 1 / MAX_CENTROIDS, dtype=np.float32)
    card = _unit(topic + _unit(numbers.standard_normal((2, embedder.dimension)))).astype(np.float32)
    return DomainEmbedding(embedder, weights @ centroids, centroids, weights, 200, "0" * 64, card=card)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def main() -> None:
    """Fill a new registry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--experts", type=int, default=10_000)
    options = parser.parse_args()
    registry = open_registry(options.home)
    fill(registry, options.experts)
    registry.engine.dispose()


if __name__ == "__main__":
    main()
