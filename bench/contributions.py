"""Contribute from several processes at once while garbage is collected: python -m bench.contributions HOME.

Each process stores the blobs of its experts and publishes them; half of the names are shared between the processes. It
also leaves old blobs without a row. Another process collects garbage all the time. At the end every expert must be
there once, with consecutive versions and all its blobs. The home must be empty. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bench.crowd import _add_seed
from registry.catalog.events import list_events
from registry.catalog.gc import collect
from registry.catalog.publish import publish_expert
from registry.catalog.queries import list_experts
from registry.catalog.verification import find_missing
from registry.home import Registry, open_registry
from registry.records import DomainEmbedding, EmbedderId, NewExpert

GRACE = timedelta(minutes=10)
OLD_SECONDS = 3_600
EMBEDDER = EmbedderId("bench", "1", 8, "mean")


def contribute(registry: Registry, process: int, count: int) -> None:
    """Publish `count` experts, each with blobs of its own, and leave an old orphan next to each."""
    numbers = np.random.default_rng(process)
    for number in range(count):
        content = f"{process} {number}".encode()
        vector = numbers.standard_normal(EMBEDDER.dimension).astype(np.float32)
        vector /= np.linalg.norm(vector)
        domain = DomainEmbedding(EMBEDDER, vector, vector[None], np.ones(1, np.float32), 1, "0" * 64)
        orphan = registry.blobs.path(registry.blobs.put_bytes(b"orphan " + content))
        os.utime(orphan, (time.time() - OLD_SECONDS,) * 2)
        new = NewExpert(
            name=f"shared-{number}" if number % 2 else f"own-{process}-{number}",
            seed="smol",
            license="MIT",
            description="",
            dtype="F32",
            parameters=1,
            ffn_width=1,
            ffn=registry.blobs.put_bytes(b"ffn " + content),
            trunk=registry.blobs.put_bytes(b"trunk " + content),
            embedding=domain,
            sample=registry.blobs.put_bytes(b"sample " + content),
            held_out=None,
            chunk_vectors=None,
            provenance={"process": process, "number": number},
        )
        publish_expert(registry, new)


def collect_until_told(registry: Registry) -> None:
    """Collect garbage until the standard input ends; print the number of collections and of removed blobs."""
    rounds = removed = 0
    os.set_blocking(0, False)
    while True:
        try:
            if os.read(0, 1) == b"":
                break
        except BlockingIOError:
            pass
        removed += len(collect(registry, grace=GRACE).blobs)
        rounds += 1
    print(rounds, removed)


def check(registry: Registry, processes: int, count: int) -> dict[str, Any]:
    """Count lost, doubled and damaged experts."""
    experts = list_experts(registry)
    made = Counter((each.provenance["process"], each.provenance["number"]) for each in experts)
    versions = defaultdict(list)
    for each in experts:
        versions[each.name].append(each.version)
    return {
        "experts": len(experts),
        "lost": processes * count - len(made),
        "doubled": sum(made.values()) - len(made),
        "with_gaps": sum(sorted(found) != list(range(1, len(found) + 1)) for found in versions.values()),
        "missing_blobs": len(find_missing(registry)),
        "events": sum(each.action == "publish expert" for each in list_events(registry, limit=10**6)),
    }


def main() -> None:
    """Run the processes and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--database", help="URL; SQLite in the home by default")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with open_registry(options.home, database_url=options.database) as registry:
        if options.part == "gc":
            collect_until_told(registry)
            return
        if options.part is not None:
            contribute(registry, int(options.part), options.count)
            return
        blobs = {name: registry.blobs.put_bytes(name.encode()) for name in ("ffn", "trunk")}
        _add_seed(registry, "smol", blobs)
        command = [
            sys.executable,
            "-m",
            "bench.contributions",
            str(options.home),
            "--count",
            str(options.count),
        ]
        command += ["--database", options.database] if options.database else []
        start = time.perf_counter()
        gc = subprocess.Popen(
            [*command, "--part", "gc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        parts = [subprocess.Popen([*command, "--part", str(number)]) for number in range(options.processes)]
        failed = sum(part.wait() != 0 for part in parts)
        seconds = time.perf_counter() - start
        output, _ = gc.communicate()
        rounds, removed = output.split() if gc.returncode == 0 else ("failed", "0")
        found = check(registry, options.processes, options.count)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "load": os.getloadavg(),
                "failed_processes": failed,
                "collections": rounds,
                "orphans_removed_meanwhile": removed,
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
