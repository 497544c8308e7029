"""Tables shared by several commands: the results of a composition and of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ui.cli.kit.output import Column, note, print_fields, print_table
from ui.wording.display import duration, share, size
from ui.wording.licenses import licence_words
from ui.wording.tasks import task_rows
from ui.wording.training_cost import learning_facts

if TYPE_CHECKING:
    from composer.estimate import Estimate


def print_composed(shape: Mapping[str, Any]) -> None:
    """Print a published mix as lines of name and value."""
    print_fields(
        {
            "mix": shape["mix"],
            "parent": shape["parent"],
            "seed": shape["seed"],
            "experts": ", ".join(shape["experts"]),
            "licence": shape["license"],
            "licence means": licence_words(shape["license"]),
            "lock": shape["lock"],
            "written": size(shape["bytes_written"]),
            "took": duration(shape["seconds"]),
            **learning_facts(shape["training"], shape["stage_seconds"]),
        }
    )
    for warning in shape["warnings"]:
        note(f"warning: {warning}")


def memory_of(forecast: Estimate) -> str:
    """Words for the memory of a composition, in all and in each process."""
    each = "" if len(forecast.memory_each) == 1 else ": " + " + ".join(map(size, forecast.memory_each))
    return f"about {size(forecast.memory)}{each}, not counting mapped files"


def note_memory(forecast: Estimate) -> None:
    """Tell the memory of a fine-tune before it starts."""
    note(f"memory of the fine-tune: {memory_of(forecast)}")


def print_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Print two tables: bits per byte by domain and model (lower is better), routing by domain and expert."""
    from composer.evaluation.contenders import MEAN, score_rows  # imports numpy

    columns, losses = score_rows(evaluation)
    shares: Mapping[str, Mapping[str, float]] = evaluation["routing"]
    if len(evaluation["bits_per_byte"]) < 2:
        del losses[MEAN]
    show = "{:.3f}".format
    print_table(
        [{"domain": name, **dict(zip(columns, row, strict=True))} for name, row in losses.items()],
        [
            Column("domain", "Bits per byte", style="bold"),
            *(Column(column, column.replace("_", " "), show=show, justify="right") for column in columns),
        ],
        empty="no domain has held-out text to evaluate on",
    )
    print_table(
        [{"domain": domain, **row} for domain, row in shares.items()],
        [Column("domain", "Routing share", style="bold"), *_columns(shares, share)],
        empty="no routing was measured",
    )


def print_tasks(tasks: Mapping[str, Any]) -> None:
    """Print one row per task and metric, one column per model. Higher or lower may be better, by metric."""
    found = task_rows(tasks)
    rows = [{"task": row.task, "metric": row.metric, **row.values} for row in found]
    models = {(row.task, row.metric): row.values for row in found}
    head = [Column("task", "Task", style="bold"), Column("metric", "Metric")]
    print_table(rows, [*head, *_columns(models, "{:.4f}".format)], empty="no task was run")


def _columns(rows: Mapping[Any, Mapping[str, Any]], show: Any) -> list[Column]:
    """Return one column per key of any row, in order of first appearance."""
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    return [Column(key, key.replace("_", " "), show=show, justify="right") for key in keys]
