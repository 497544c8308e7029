"""Publishes tiny seeds, experts and mixes without checkpoints, and runs scripts in several concurrent processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import warm_process

from registry.catalog.publish import publish_expert, publish_mix, publish_seed
from registry.home import Registry
from registry.records import DomainEmbedding, EmbedderId, ExpertRecord, MixRecord, NewExpert, SeedRecord

EMBEDDER = EmbedderId("hashing", "1", 4, "mean")


def make_embedding(axis: int = 0) -> DomainEmbedding:
    """A domain whose two centroids are the unit vectors of `axis` and of the next axis, in 4 dimensions."""
    centroids = np.eye(4, dtype=np.float32)[[axis % 4, (axis + 1) % 4]]
    weights = np.array([0.75, 0.25], dtype=np.float32)
    return DomainEmbedding(EMBEDDER, weights @ centroids, centroids, weights, 8, "0" * 64)


def add_seed(registry: Registry, name: str = "base", **changes: Any) -> SeedRecord:
    """Publish a seed whose blobs contain its name with a suffix."""
    put = registry.blobs.put_bytes
    values: dict[str, Any] = {
        "name": name,
        "license": "Apache-2.0",
        "description": "a seed",
        "model_type": "llama",
        "config": {"model_type": "llama", "hidden_size": 8},
        "dtype": "F32",
        "parameters": 7_000_000_000,
        "ffn": put(f"{name} ffn".encode()),
        "trunk": put(f"{name} trunk".encode()),
        "files": {"config.json": put(b"{}"), "tokenizer.json": put(b"[]")},
        "sample": None,
        "held_out": None,
        "chunk_vectors": None,
    }
    return publish_seed(registry, **(values | changes))


def add_expert(
    registry: Registry, name: str = "python", *, seed: str = "base", **changes: Any
) -> ExpertRecord:
    """Publish an expert that is not anchored."""
    put = registry.blobs.put_bytes
    values: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "license": "MIT",
        "description": "an expert",
        "dtype": "F32",
        "parameters": 7_000_000_000,
        "ffn_width": 16,
        "ffn": put(f"{name} ffn".encode()),
        "trunk": put(f"{name} trunk".encode()),
        "embedding": make_embedding(),
        "sample": put(f"{name} sample".encode()),
        "held_out": None,
        "chunk_vectors": None,
        "provenance": {"tool": "test"},
    }
    return publish_expert(registry, NewExpert(**(values | changes)))


def add_mix(registry: Registry, name: str = "blend", *, experts: list[str], **changes: Any) -> MixRecord:
    """Publish a mix with one new blob."""
    put = registry.blobs.put_bytes
    values: dict[str, Any] = {
        "seed": "base",
        "experts": experts,
        "manifest": put(f"{name} manifest".encode()),
        "lock": put(f"{name} lock".encode()),
        "blobs": [put(f"{name} router".encode())],
    }
    return publish_mix(registry, name, **(values | changes))


def race(imports: str, body: str, count: int, *arguments: str) -> list[str]:
    """Run `body` in `count` processes and return their outputs. All start `body` together after their `imports`."""
    script = f"import sys\n{imports}\nprint('ready', flush=True)\nsys.stdin.readline()\n{body}"
    processes = [warm_process.start(script, *arguments) for _ in range(count)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate() for process in processes]
    failures = [
        error for process, (_out, error) in zip(processes, results, strict=True) if process.returncode
    ]
    assert not failures, "\n".join(failures)
    return [out.strip() for out, _error in results]
