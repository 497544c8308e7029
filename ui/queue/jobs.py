"""The kinds of runs: a table from each kind to its use case, and the function that queues a run.

A request is JSON with these fields:
    compose               {"recipe": {…}}; "evaluate": true also queues an evaluation of the new mix
    extend, remove        {"mix": …, "expert": …}; "evaluate" as above; "tokens" of a removal
    evaluate              {"mix": …, "against": […]}
    measure               {"expert": …}
    export                {"mix": …, "out": …}
    push                  {"mix" or "expert": …, "target": "hf:owner/name"}
    demo                  {}; trains the demo's experts and composes its mixes in this registry
    add-seed, contribute, train-expert    the names of the command's options
A run's result is the JSON that the command of the same name prints with --json.

Requests from the web app are restricted to its root folders. Such a request contains "roots", and all its paths
are inside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from registry.catalog import queries
from registry.errors import ConflictError, InvalidInputError
from registry.home import Registry
from registry.intake import sources
from registry.intake.hub_upload import repository_of
from registry.queue import runs
from registry.records import RunRecord
from ui.queue import uploads
from ui.queue.roots import READ, WRITTEN, Roots

if TYPE_CHECKING:
    from composer.composition import ComposeResult

Request = Mapping[str, Any]
Progress = Callable[[str, int, int], None]
Job = Callable[[Registry, Request, Progress], dict[str, Any]]


def submit(registry: Registry, kind: str, request: Request, *, roots: Roots | None = None) -> RunRecord:
    """Queue a run, or return the queued or running one with the same request.

    Names are pinned to their current versions and paths are made absolute, so that every attempt on any worker
    does the same work. With `roots`, every path must be inside them, now and when the work begins.

    Raises:
        InvalidInputError: the kind is unknown, or a path is outside the roots.
        NotFoundError: the registry does not contain a mix, expert or seed of the request.
        ConflictError: the output folder already exists.
    """
    if kind not in JOBS:
        raise InvalidInputError(f"unknown run kind {kind!a}: expected one of {', '.join(JOBS)}")
    if roots is not None:  # checked first, so that no path outside the roots is accessed
        roots.check(request)
        if any(request.get(name) for name in (*READ, *WRITTEN)):
            request = {**request, ROOTS: roots.to_json()}
    return runs.submit(registry, kind, _pinned(registry, kind, request))


def execute(registry: Registry, run: RunRecord, progress: Progress) -> dict[str, Any]:
    """Do the work of a claimed run and return its result. Exceptions of the use case are not caught."""
    if run.kind not in JOBS:
        raise InvalidInputError(
            f"this worker does not support run kind {run.kind!a}: start a worker of the nexusmix version that queued it"
        )
    if ROOTS in run.request:
        Roots.from_json(run.request[ROOTS]).check(run.request)  # a link may have changed since then
    out = run.request.get("out")
    if out is not None and run.attempt > 1 and Path(out).exists():
        # The folder did not exist when the run was queued, and it is created atomically.
        # An earlier attempt therefore died after it had finished the work.
        return {"folder": out}
    result = JOBS[run.kind](registry, run.request, progress)
    uploads.discard_of(registry, run.request)
    return result


def _compose(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.composition import compose
    from composer.mix.recipe import Recipe

    result = compose(registry, Recipe.parse(request["recipe"]), progress=progress)
    return _composed(registry, request, result)


def _extend(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.extension import extend
    from composer.mix.recipe import Training

    training = request.get("training")
    result = extend(
        registry,
        request["mix"],
        request["expert"],
        training=None if training is None else Training.model_validate(training),
        license_override=request.get("license_override"),
        progress=progress,
    )
    return _composed(registry, request, result)


def _remove(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.extension import remove

    result = remove(
        registry, request["mix"], request["expert"], tokens=request.get("tokens"), progress=progress
    )
    return _composed(registry, request, result)


def _evaluate(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.evaluation.evaluate import evaluate

    return {**evaluate(registry, progress=progress, **_arguments(request, mix="mix_ref"))}


def _export(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.formats import export

    written = export(registry, progress=progress, **_arguments(request, mix="mix_ref", out="folder"))
    return {**dataclasses.asdict(written), "folder": str(written.folder)}


def _push(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.formats.push import push

    kind: Literal["expert", "mix"] = "mix" if "mix" in request else "expert"
    options = {name: request[name] for name in ("private", "format", "dtype") if request.get(name)}
    return dataclasses.asdict(
        push(registry, request[kind], request["target"], kind=kind, progress=progress, **options)
    )


def _measure(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.evaluation.expert_measurement import measure_transfer

    return measure_transfer(registry, progress=progress, **_arguments(request, expert="expert_ref"))


def _contribute(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.experts.contribution import contribute
    from ui.wording.shapes import expert_shape

    return expert_shape(contribute(registry, progress=progress, **_arguments(request)))


def _add_seed(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.experts.contribution import add_seed
    from ui.wording.shapes import seed_shape

    return seed_shape(add_seed(registry, progress=progress, **_arguments(request)))


def _demo(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from ui.demo.run import run_demo

    made = run_demo(registry.home, progress)
    return {
        "mix": "demo@2",
        "seconds": made["seconds"],
        "findings": made["findings"],
        "report": made["report"],
    }


def _train_expert(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.experts.train import train_expert

    result = train_expert(registry, progress=progress, **_arguments(request, seed="seed_name"))
    return {**dataclasses.asdict(result), "folder": str(result.folder)}


JOBS: Mapping[str, Job] = {
    "compose": _compose,
    "extend": _extend,
    "remove": _remove,
    "evaluate": _evaluate,
    "measure": _measure,
    "export": _export,
    "push": _push,
    "add-seed": _add_seed,
    "contribute": _contribute,
    "train-expert": _train_expert,
    "demo": _demo,
}

ROOTS = "roots"
_PATHS = ("out", "embedding")
_PATH_LISTS = ("data", "held_out")


def _composed(registry: Registry, request: Request, result: ComposeResult) -> dict[str, Any]:
    from ui.wording.shapes import composed_shape

    if request.get("evaluate"):
        # The evaluation is a separate run: if it fails or is cancelled, the mix is still published.
        submit(registry, "evaluate", {"mix": result.mix.ref, "against": []})
    return composed_shape(result)


def _arguments(request: Request, **renamed: str) -> dict[str, Any]:
    """Convert the request to a use case's arguments: paths become Path objects, absent options keep their defaults."""
    arguments = {
        renamed.get(name, name): value
        for name, value in request.items()
        if value is not None and name != ROOTS
    }
    for name in {renamed.get(path, path) for path in _PATHS} & arguments.keys():
        arguments[name] = Path(arguments[name])
    for name in set(_PATH_LISTS) & arguments.keys():
        arguments[name] = [Path(path) for path in arguments[name]]
    return arguments


def _pinned(registry: Registry, kind: str, request: Request) -> dict[str, Any]:
    pinned = dict(request)
    if "recipe" in pinned:
        experts = [queries.get_expert(registry, ref).ref for ref in pinned["recipe"]["experts"]]
        queries.get_seed(registry, pinned["recipe"]["seed"])
        pinned["recipe"] = {**pinned["recipe"], "experts": experts}
    if "mix" in pinned:
        pinned["mix"] = queries.get_mix(registry, pinned["mix"]).ref
    if "expert" in pinned:
        expert = pinned["expert"]
        # an expert to remove may be withdrawn: it is looked up among those of the mix
        pinned["expert"] = (
            queries.get_member(registry, pinned["mix"], expert)
            if kind == "remove"
            else queries.get_expert(registry, expert).ref
        )
    if "against" in pinned:
        pinned["against"] = [queries.get_mix(registry, ref).ref for ref in pinned["against"]]
    if "target" in pinned:
        registry.actor.require("push")
        repository_of(pinned["target"])
    if "source" in pinned:
        pinned["source"] = sources.pinned(pinned["source"])
    for name in set(_PATHS) & pinned.keys():
        pinned[name] = pinned[name] and str(Path(pinned[name]).absolute())
    for name in set(_PATH_LISTS) & pinned.keys():
        pinned[name] = [str(Path(path).absolute()) for path in pinned[name]]
    if "out" in pinned and Path(pinned["out"]).exists():
        raise ConflictError(f"{pinned['out']} already exists: choose a new folder")
    return pinned
