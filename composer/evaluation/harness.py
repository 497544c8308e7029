"""Tasks of lm-evaluation-harness on a mix, its seed, its experts, dense merging and other mixes.

This needs the extra `eval`. Tasks are those of the harness and those defined by YAML files in a folder of the user.
Such a file may name Python code, which the harness runs: give only folders that you trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from composer.chat.conversation import Chat
from composer.chat.renderer import Renderer
from composer.chat.templates import ChatTemplate, exported_template
from composer.errors import RecipeError
from composer.evaluation.chat_harness import chat_model
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
from composer.mix.opening import Manifest, OpenSeed, find_mix, open_tokenizer
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
    chat: bool = True,
    progress: Progress = silent,
) -> Evaluation:
    """Run tasks on a mix and the models it is compared with; `limit` keeps the first examples of each task.

    With `chat`, the examples of tasks that generate text are messages in the mix's chat template, if it has one. All
    models read the same text. Other tasks compare likelihoods of plain text.

    Returns the mix's evaluation, which is also stored with the mix: the result of `evaluate`, which runs first if
    the mix has no evaluation, and
        "tasks": {task: {"limit": limit, "chat_template": its origin or None, "metrics": {"seed", expert ref …,
                  "dense_merging", "mix", other ref …: {metric: value}}}}
    with the tasks of earlier calls. A metric's standard error is named "<metric>_stderr".

    Raises MissingExtraError, NotFoundError, RecipeError for a task that is unknown or whose data cannot be loaded,
    and MissingTextError (see `evaluate`), all before any model is opened.
    """
    require("lm_eval", "eval")
    record, manifest = find_mix(registry, mix_ref)
    contenders = _contenders(registry, record.ref, manifest, against)
    loaded, manager = _load(tasks, task_path)
    if queries.get_mix(registry, record.ref).evaluation is None:
        evaluate(registry, record.ref, progress=progress)
    tokenizer = open_tokenizer(registry.blobs, manifest.seed.files)
    template = exported_template(registry.blobs, manifest) if chat else None
    written = {name: template if _generates(task) else None for name, task in loaded.items()}
    found: dict[str, dict[str, Any]] = {
        name: {"limit": limit, "chat_template": origin and origin.origin, "metrics": {}}
        for name, origin in written.items()
    }
    for done, contender in enumerate(contenders):
        progress("running tasks", done, len(contenders))
        opened = OpenSeed(contender.open(), tokenizer)
        for each in dict.fromkeys([template, None]):
            some = {name: task for name, task in loaded.items() if written[name] is each}
            for task, metrics in _run(opened, each, some, manager, limit).items():
                found[task]["metrics"][contender.column] = metrics
    progress("running tasks", len(contenders), len(contenders))
    earlier: dict[str, Any] = queries.get_mix(registry, record.ref).evaluation or {}
    result = {**earlier, "tasks": {**earlier.get("tasks", {}), **found}}
    queries.record_evaluation(registry, record.ref, result)
    return cast(Evaluation, result)


def _contenders(registry: Registry, ref: str, manifest: Manifest, against: Sequence[str]) -> list[Contender]:
    """Return every model; an expert's column is its reference. Dense merging is omitted if FFN widths differ."""
    seed, experts = manifest.seed, [member.expert for member in manifest.members]
    merged = dense_merging(registry, seed, experts)
    return [
        seed_contender(registry, seed),
        *(expert_contender(registry, seed, expert, column=expert.ref) for expert in experts),
        *([merged] if merged is not None else []),
        mix_contender(registry, ref),
        *other_mixes(registry, against),
    ]


def _load(names: Sequence[str], folder: Path | None) -> tuple[dict[str, Any], Any]:
    """Load the harness's task objects by name, with their manager; a group or a tag gives all its tasks."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise RecipeError(f"{folder} is not a folder; --task-path expects a folder of YAML task files")
    include = str(folder) if folder is not None else None
    manager = TaskManager(include_path=include, include_defaults=False)
    if not set(names) <= manager.task_index.keys():
        manager = TaskManager(include_path=include)  # reads thousands of files
    if unknown := [name for name in names if name not in manager.task_index]:
        raise RecipeError(
            f"unknown task: {', '.join(unknown)}; `lm-eval ls tasks` lists the harness's tasks; "
            "give the folder of your own tasks with --task-path"
        )
    try:
        tasks: dict[str, Any] = manager.load(list(names))["tasks"]
    except OSError as error:  # from the hub, or from a file that the task names
        raise RecipeError(f"the data of {', '.join(names)} cannot be loaded: {error}") from error
    return tasks, manager


def _generates(task: Any) -> bool:
    return bool(task.OUTPUT_TYPE == "generate_until")


def _run(
    opened: OpenSeed,
    template: ChatTemplate | None,
    tasks: Mapping[str, Any],
    manager: Any,
    limit: int | None,
) -> dict[str, Any]:
    """Run the tasks on one model, with or without a chat template, and return its metrics by task."""
    if not tasks:
        return {}
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    settings: dict[str, Any] = {"backend": "causal", "batch_size": BATCH}
    with Renderer() if template else nullcontext() as renderer:
        if template and renderer:
            model = chat_model(Chat(opened, template, renderer), **settings)
        else:
            model = HFLM(pretrained=opened.model, tokenizer=opened.tokenizer, **settings)
        results = simple_evaluate(
            model,
            tasks=list(tasks.values()),
            task_manager=manager,  # by default, each call would read thousands of files
            limit=limit,
            log_samples=False,
            bootstrap_iters=1000,
            apply_chat_template=template is not None,
            fewshot_as_multiturn=template is not None,
        )
    assert results is not None, "simple_evaluate returns None only in processes after the first"
    return {task: _numbers(results["results"][task]) for task in tasks}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Convert {"acc,none": .5, "acc_stderr,none": "N/A"} to {"acc": .5}; other filters than none stay in the name."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if "," in name and isinstance(value, (int, float))
    }
