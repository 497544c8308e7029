"""Tasks of lm-evaluation-harness on a mix, its seed, its experts, dense merging and other mixes.

Needs the extra `eval`. Any task works that the harness knows, or that a YAML file in a folder of one's own defines.
Such a file may name code of its own, which the harness runs: point to folders that you trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from composer.errors import RecipeError
from composer.evaluation.contenders import (
    Contender,
    Evaluation,
    dense_merging,
    expert_contender,
    mix_contender,
    other_mixes,
    seed_contender,
)
from composer.evaluation.evaluate import evaluate
from composer.extras import require
from composer.mix.opening import Manifest, find_mix, open_tokenizer
from composer.progress import Progress, silent
from registry.catalog import queries
from registry.home import Registry

BATCH = 8


def evaluate_tasks(
    registry: Registry,
    mix_ref: str,
    tasks: Sequence[str],
    *,
    task_path: Path | None = None,
    limit: int | None = None,
    against: Sequence[str] = (),
    progress: Progress = silent,
) -> Evaluation:
    """Run tasks on every model beside a mix, on the first `limit` examples of each if that is given.

    Returns the mix's evaluation as it is then recorded: that of `evaluate`, measured now if it never was, and
        "tasks": {task: {"limit": limit, "metrics": {"seed", expert ref …, "dense_merging", "mix", other ref …:
                  {metric: value}}}}
    beside the tasks that were run before. A metric's standard error is called "<metric>_stderr".

    Raises MissingExtraError, NotFoundError, RecipeError for a task that is unknown or whose data cannot be had, and
    MissingTextError as `evaluate` does: all before any model is opened.
    """
    require("lm_eval", "eval")
    record, manifest = find_mix(registry, mix_ref)
    contenders = _contenders(registry, record.ref, manifest, against)
    loaded = _load(tasks, task_path)
    if queries.get_mix(registry, record.ref).evaluation is None:
        evaluate(registry, record.ref, progress=progress)
    tokenizer = open_tokenizer(registry.blobs, manifest.seed.files)
    found: dict[str, dict[str, Any]] = {name: {"limit": limit, "metrics": {}} for name in loaded}
    for done, contender in enumerate(contenders):
        progress("running tasks", done, len(contenders))
        for task, metrics in _run(contender.open(), tokenizer, loaded, limit).items():
            found[task]["metrics"][contender.column] = metrics
    progress("running tasks", len(contenders), len(contenders))
    earlier: dict[str, Any] = queries.get_mix(registry, record.ref).evaluation or {}
    result = {**earlier, "tasks": {**earlier.get("tasks", {}), **found}}
    queries.record_evaluation(registry, record.ref, result)
    return cast(Evaluation, result)


def _contenders(registry: Registry, ref: str, manifest: Manifest, against: Sequence[str]) -> list[Contender]:
    """Every model, an expert in a column of its reference. Dense merging is left out where FFN widths differ."""
    seed, experts = manifest.seed, [member.expert for member in manifest.members]
    merged = dense_merging(registry, seed, experts)
    return [
        seed_contender(registry, seed),
        *(expert_contender(registry, seed, expert, column=expert.ref) for expert in experts),
        *([merged] if merged is not None else []),
        mix_contender(registry, ref),
        *other_mixes(registry, against),
    ]


def _load(names: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """The harness's task objects by name; groups and tags give all of theirs."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise RecipeError(f"{folder} is no folder; --task-path expects one that holds task files in YAML")
    include = str(folder) if folder is not None else None
    manager = TaskManager(include_path=include, include_defaults=False)
    if not set(names) <= manager.task_index.keys():
        manager = TaskManager(include_path=include)  # reads thousands of files
    if unknown := [name for name in names if name not in manager.task_index]:
        raise RecipeError(
            f"the harness knows no task {', '.join(unknown)}: `lm-eval ls tasks` lists its own; "
            "give the folder of yours with --task-path"
        )
    try:
        tasks: dict[str, Any] = manager.load(list(names))["tasks"]
    except OSError as error:  # of the hub, or of a file that the task names
        raise RecipeError(f"the data of {', '.join(names)} cannot be loaded: {error}") from error
    return tasks


def _run(model: Any, tokenizer: Any, tasks: Mapping[str, Any], limit: int | None) -> dict[str, Any]:
    """One model's metrics by task."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    results = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=BATCH),
        tasks=list(tasks.values()),
        limit=limit,
        log_samples=False,
        bootstrap_iters=1000,
    )
    assert results is not None, "only other processes than the first get none"
    return {task: _numbers(results["results"][task]) for task in tasks}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """{"acc,none": .5, "acc_stderr,none": "N/A"} as {"acc": .5}; a filter other than none stays in the name."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if "," in name and isinstance(value, (int, float))
    }
