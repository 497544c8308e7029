"""Time MLflow's model registry on SQLite: `python registry_peer.py MODELS`; needs mlflow, not nexusmix.

Its rows are inserted in bulk, as ours are: its own calls take 130 ms for each model.
"""

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
    from mlflow.store.model_registry.dbmodels.models import (
        SqlModelVersion,
        SqlModelVersionTag,
        SqlRegisteredModel,
        SqlRegisteredModelTag,
    )
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import insert, select

    models = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db")
        start = time.perf_counter()
        made = store.create_registered_model("first")  # a row of its own, as the pattern of the others
        store.create_model_version(made.name, folder)
        numbers = range(models - 1)
        names = {"name": [f"expert-{number:05}" for number in numbers]}
        tags = [LICENSES[number % len(LICENSES)] for number in numbers]
        with store.ManagedSessionMaker() as session:
            for table, changed in (
                (SqlRegisteredModel.__table__, {**names, "description": ["about"] * len(tags)}),
                (SqlModelVersion.__table__, {**names, "source": [f"{folder}/{each}" for each in numbers]}),
            ):
                like = dict(session.execute(select(table)).mappings().one())
                rows = (
                    {**like, **dict(zip(changed, row, strict=True))}
                    for row in zip(*changed.values(), strict=True)
                )
                session.execute(insert(table), list(rows))
                workspace = like["workspace"]
            tag_rows = [
                {"workspace": workspace, "name": name, "key": "license", "value": tag}
                for name, tag in zip(names["name"], tags, strict=True)
            ]
            session.execute(insert(SqlRegisteredModelTag.__table__), tag_rows)
            session.execute(insert(SqlModelVersionTag.__table__), [{**row, "version": 1} for row in tag_rows])
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
