"""Results of lm-evaluation-harness tasks as rows, for the command line and a mix's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskRow:
    """One metric of one task, with `values` and standard `errors` by model.

    Whether higher or lower is better depends on the metric.
    """

    task: str
    metric: str
    limit: int | None
    values: dict[str, Any]
    errors: dict[str, Any]


def task_rows(tasks: Mapping[str, Any]) -> list[TaskRow]:
    """Return the rows of `evaluation["tasks"]`, each metric with its standard error.

    The harness names a metric with its filter: "acc,none", "acc_stderr,none".
    """
    rows = []
    for task, run in tasks.items():
        metrics = run["metrics"]
        for name in dict.fromkeys(name for found in metrics.values() for name in found):
            metric, _, kind = name.partition(",")
            if metric.endswith("_stderr"):
                continue
            error = f"{metric}_stderr" + (f",{kind}" if kind else "")
            rows.append(
                TaskRow(
                    task,
                    metric if kind in ("", "none") else f"{metric} ({kind})",
                    run.get("limit"),
                    {model: found.get(name) for model, found in metrics.items()},
                    {model: found.get(error) for model, found in metrics.items()},
                )
            )
    return rows
