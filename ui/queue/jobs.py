"""What a run can be: a table from its kind to the use case that does it, and how one is queued.

A request is JSON: {"recipe": {…}} composes, and with "evaluate": true queues the evaluation of what came of it,
{"mix": …, "expert": …} extends or removes, {"mix": …, "against": […]} evaluates, {"expert": …} measures, {"mix": …,
"out": …} exports; "contribute" and "train-expert" take the names of their options.
A result is what the verb of the same name prints with --json.

Whoever asks through the web app is bound to its roots: the request then carries "roots", and names no path outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.catalog import queries
from registry.errors import ConflictError, InvalidInputError
from registry.home import Registry
from registry.intake import sources
from registry.queue import runs
from registry.records import RunRecord
from ui.queue.roots import READ, WRITTEN, Roots

if TYPE_CHECKING:
    from composer.composition import ComposeResult

Request = Mapping[str, Any]
Progress = Callable[[str, int, int], None]
Job = Callable[[Registry, Request, Progress], dict[str, Any]]


def submit(registry: Registry, kind: str, request: Request, *, roots: Roots | None = None) -> RunRecord:
    """Queue a piece of work, or return the run that is live for the same request.

    Names are pinned to the versions that they mean now and paths made absolute, so that every attempt, by
    whichever worker, does the same. With `roots` every path has to lie within them, now and when the work begins.
    Raises InvalidInputError for an unknown kind or a path outside, NotFoundError for what the request names and the
    registry does not hold, ConflictError when the folder to be written exists.
    """
    if kind not in JOBS:
        raise InvalidInputError(f"no kind of run is called {kind!a}; there are {', '.join(JOBS)}")
    if roots is not None:  # first of all: what is outside is not even looked at
        roots.check(request)
        if any(request.get(name) for name in (*READ, *WRITTEN)):
            request = {**request, ROOTS: roots.to_json()}
    return runs.submit(registry, kind, _pinned(registry, request))


def execute(registry: Registry, run: RunRecord, progress: Progress) -> dict[str, Any]:
    """Do the work of a claimed run and return its result; whatever the use case raises passes through."""
    if run.kind not in JOBS:
        raise InvalidInputError(
            f"this worker knows no kind of run called {run.kind!a}: it needs the version of nexusmix that queued it"
        )
    if ROOTS in run.request:
        Roots.from_json(run.request[ROOTS]).check(run.request)  # a link may have changed since it was queued
    out = run.request.get("out")
    if out is not None and run.attempt > 1 and Path(out).exists():
        # It did not exist when the run was queued and appears whole: the attempt before died after its work.
        return {"folder": out}
    return JOBS[run.kind](registry, run.request, progress)


def _compose(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.composition import compose
    from composer.mix.recipe import Recipe

    result = compose(registry, Recipe.parse(request["recipe"]), progress=progress)
    if request.get(
        "evaluate"
    ):  # a run of its own: it may fail or be cancelled, and the mix is there all the same
        submit(registry, "evaluate", {"mix": result.mix.ref, "against": []})
    return _composed(result)


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
    return _composed(result)


def _remove(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.extension import remove

    return _composed(remove(registry, request["mix"], request["expert"], progress=progress))


def _evaluate(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.evaluation.evaluate import evaluate

    return {**evaluate(registry, progress=progress, **_arguments(request, mix="mix_ref"))}


def _export(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.formats import export

    written = export(registry, progress=progress, **_arguments(request, mix="mix_ref", out="folder"))
    return {**dataclasses.asdict(written), "folder": str(written.folder)}


def _measure(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.evaluation.expert_measurement import measure_transfer

    return measure_transfer(registry, progress=progress, **_arguments(request, expert="expert_ref"))


def _contribute(registry: Registry, request: Request, progress: Progress) -> dict[str, Any]:
    from composer.experts.contribution import contribute
    from ui.wording.shapes import expert_shape

    return expert_shape(contribute(registry, progress=progress, **_arguments(request)))


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
    "contribute": _contribute,
    "train-expert": _train_expert,
}

ROOTS = "roots"
_PATHS = ("out", "embedding")
_PATH_LISTS = ("data", "held_out")


def _composed(result: ComposeResult) -> dict[str, Any]:
    from ui.wording.shapes import composed_shape

    return composed_shape(result)


def _arguments(request: Request, **renamed: str) -> dict[str, Any]:
    """The request as arguments of a use case: paths as paths, absent options left to their defaults."""
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


def _pinned(registry: Registry, request: Request) -> dict[str, Any]:
    pinned = dict(request)
    if "recipe" in pinned:
        experts = [queries.get_expert(registry, ref).ref for ref in pinned["recipe"]["experts"]]
        queries.get_seed(registry, pinned["recipe"]["seed"])
        pinned["recipe"] = {**pinned["recipe"], "experts": experts}
    if "mix" in pinned:
        pinned["mix"] = queries.get_mix(registry, pinned["mix"]).ref
    if "expert" in pinned:
        pinned["expert"] = queries.get_expert(registry, pinned["expert"]).ref
    if "against" in pinned:
        pinned["against"] = [queries.get_mix(registry, ref).ref for ref in pinned["against"]]
    if "source" in pinned:
        pinned["source"] = sources.pinned(pinned["source"])
    for name in set(_PATHS) & pinned.keys():
        pinned[name] = pinned[name] and str(Path(pinned[name]).absolute())
    for name in set(_PATH_LISTS) & pinned.keys():
        pinned[name] = [str(Path(path).absolute()) for path in pinned[name]]
    if "out" in pinned and Path(pinned["out"]).exists():
        raise ConflictError(f"{pinned['out']} exists already: name a new folder")
    return pinned
