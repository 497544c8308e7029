"""What tasks of lm-evaluation-harness gave, as rows: for the command line and a mix's page alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskRow:
    """One metric of one task; `values` and standard `errors` by model. What is better depends on the metric."""

    task: str
    metric: str
    limit: int | None
    values: dict[str, Any]
    errors: dict[str, Any]


def task_rows(tasks: Mapping[str, Any]) -> list[TaskRow]:
    """The rows of `evaluation["tasks"]`, standard errors beside their metric. The harness names a metric with
    its filter: "acc,none", "acc_stderr,none"."""
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
