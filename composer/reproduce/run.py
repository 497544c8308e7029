"""Reproduce: the whole way from a seed and corpora to the report, readable top to bottom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from composer.errors import RecipeError
from composer.extras import require
from composer.progress import Progress, silent
from composer.reproduce.cells import Cells, write_json
from composer.reproduce.lab import Lab, find_domains, find_seed
from composer.reproduce.plan import BASELINES, QUICK, SYSTEMS, Case, Settings, plan
from composer.reproduce.summary import summarise
from registry.home import Registry

SETTINGS, RESULTS, PAGE = "settings.json", "results.json", "index.html"


def reproduce(
    registry: Registry,
    seed: str,
    corpora: Path,
    out: Path,
    *,
    newcomer: str | None = None,
    general: str | None = None,
    license: str | None = None,
    quick: bool = False,
    only: Sequence[str] = (),
    progress: Progress = silent,
    **asked: Any,
) -> dict[str, Any]:
    """Measure every case for every random seed and write the report into `out`; what is there is not measured again.

    `seed` is registered, or the folder of one (then `license`); corpora/<domain> holds train.jsonl and test.jsonl,
    or plain files. `asked` are fields of Settings. With `only`, the cases of these names and what they need.

    Returns the results, as results.json keeps them. Raises NotFoundError, RecipeError, MissingTextError before any
    expensive work; TrainingDivergedError and others later.
    """
    require("matplotlib", "report")
    members, new = find_domains(corpora, general, newcomer)
    chosen = {**(QUICK if quick else {}), **{k: v for k, v in asked.items() if v is not None}}
    settings = Settings(members=members, newcomer=new, general=general, **chosen)
    cases = {case.name: case for case in plan(settings)}
    wanted = _with_what_they_need(cases, only)
    out.mkdir(parents=True, exist_ok=True)
    with _exclusive(out):
        _keep_settings(out, settings, seed)
        lab = Lab(
            registry,
            find_seed(registry, seed, license, corpora, general),
            corpora,
            out / "experts",
            settings,
            progress,
        )
        cells = Cells(out / "cells")
        _measure(lab, cells, cases, wanted, progress)
        return write_report(out, cells, settings, list(cases.values()))


def write_report(out: Path, cells: Cells, settings: Settings, cases: Sequence[Case]) -> dict[str, Any]:
    """Write results.json, the pictures and the page from the cells that there are."""
    from composer.reproduce.page import write_page  # wants matplotlib

    results = summarise(cells, settings, cases)
    write_json(out / RESULTS, results)
    write_page(out / PAGE, results)
    return results


def _measure(
    lab: Lab, cells: Cells, cases: Mapping[str, Case], wanted: Sequence[Case], progress: Progress
) -> None:
    from composer.reproduce.measure import Measurer

    measurer = Measurer(lab, cells, cases)
    seeds = lab.settings.random_seeds
    missing = [(c, s) for c in wanted for s in seeds if not cells.path(c.name, s).exists()]
    total = len(wanted) * len(seeds)
    lab.experts(lab.settings.domains)
    for done, (case, random_seed) in enumerate(missing, total - len(missing)):
        progress(f"measuring {total} cells", done, total)
        if cells.path(case.name, random_seed).exists():  # brought from elsewhere meanwhile
            continue
        anchored = SYSTEMS[case.system].anchored
        for kind in (False, True) if anchored else (False,):
            name = BASELINES[kind]
            if cells.read(name) is None:
                cells.write(name, None, measurer.baselines(anchored=kind))
        cells.write(case.name, random_seed, measurer.cell(case, random_seed))
    progress(f"measuring {total} cells", total, total)


def _with_what_they_need(cases: Mapping[str, Case], only: Sequence[str]) -> list[Case]:
    """The cases to measure, in the plan's order. Raises RecipeError for a name that is none."""
    unknown = [name for name in only if name not in cases]
    if unknown:
        raise RecipeError(f"no case is called {', '.join(unknown)}; there are {', '.join(cases)}")
    needed = set(only or cases)
    for case in reversed(list(cases.values())):  # a case comes after those that it refers to
        if case.name in needed:
            needed |= {other for other in (case.parent, case.like) if other is not None}
    return [case for case in cases.values() if case.name in needed]


def _keep_settings(out: Path, settings: Settings, seed: str) -> None:
    """Cells of one folder are measured under one set of settings. Raises RecipeError where they differ.

    More random seeds may be asked for later.
    """
    asked = json.loads(json.dumps({"seed": Path(seed).name, **asdict(settings), "random_seeds": None}))
    path = out / SETTINGS
    if not path.exists():
        write_json(path, asked)
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in asked if asked[name] != kept.get(name)]
    if changed:
        differences = "; ".join(f"{n} was {kept.get(n)}, now {asked[n]}" for n in changed)
        raise RecipeError(f"{out} holds cells of other settings ({differences}): choose another folder")


def _exclusive(out: Path) -> AcquireReturnProxy:
    """Two runs into one folder would measure everything twice. Raises RecipeError if another is at work."""
    try:
        return FileLock(out / ".lock").acquire(timeout=0)
    except Timeout:
        raise RecipeError(
            f"another run is measuring into {out}: wait for it, or choose another folder"
        ) from None
