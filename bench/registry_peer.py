"""Time MLflow's model registry on SQLite: `python registry_peer.py MODELS`; needs mlflow, not nexusmix."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

LICENSES = ("MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "GPL-3.0-only")
CALLS = 20


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Return median and 95th percentile of the wall and CPU time of CALLS calls, in ms."""
    wall, cpu = [], []
    for _ in range(CALLS):
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - start_cpu) * 1e3)
    return {
        "p50_ms": round(statistics.median(wall), 1),
        "p95_ms": round(sorted(wall)[int(CALLS * 0.95) - 1], 1),
        "cpu_p50_ms": round(statistics.median(cpu), 1),
    }


def main() -> None:
    """Register models with one tagged version each, list and filter them, and print JSON."""
    import mlflow
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    models = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db")
        start = time.perf_counter()
        for number in range(models):
            name = f"expert-{number:05}"
            tag = LICENSES[number % len(LICENSES)]
            store.create_registered_model(
                name, tags=[RegisteredModelTag("license", tag)], description="about"
            )
            store.create_model_version(name, f"{folder}/{number}", tags=[ModelVersionTag("license", tag)])
        filled = time.perf_counter() - start
        found = {
            "list page of 50": timed(lambda: store.search_registered_models(max_results=50)),
            "filter by tag, page of 50": timed(
                lambda: store.search_registered_models("tags.license = 'MIT'", max_results=50)
            ),
            "filter by name, page of 50": timed(
                lambda: store.search_registered_models("name LIKE 'expert-099%'", max_results=50)
            ),
        }
    print(json.dumps({"version": mlflow.__version__, "models": models, "fill_s": round(filled), **found}))


if __name__ == "__main__":
    main()
