"""Reproduce: the whole flow from a seed and corpora to the report."""

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
    """Measure every case for every random seed and write the report to `out`; cells already in `out` are reused.

    `seed` is a registered seed, or the folder of a new seed (then give `license`). corpora/<domain> contains
    train.jsonl and test.jsonl, or plain files. `asked` are fields of Settings. `only` selects cases by name; the
    cases that they depend on are added.

    Returns the content of results.json. Raises NotFoundError, RecipeError, MissingTextError,
    TrainingDivergedError, and others.
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
    """Write results.json, the figures and the page from the cells measured so far."""
    from composer.reproduce.page import write_page  # needs matplotlib

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
        if cells.path(case.name, random_seed).exists():  # copied here from another run in the meantime
            continue
        anchored = SYSTEMS[case.system].anchored
        for kind in (False, True) if anchored else (False,):
            name = BASELINES[kind]
            if cells.read(name) is None:
                cells.write(name, None, measurer.baselines(anchored=kind))
        cells.write(case.name, random_seed, measurer.cell(case, random_seed))
    progress(f"measuring {total} cells", total, total)


def _with_what_they_need(cases: Mapping[str, Case], only: Sequence[str]) -> list[Case]:
    """Return the cases to measure, in the plan's order. Raises RecipeError for an unknown name."""
    unknown = [name for name in only if name not in cases]
    if unknown:
        raise RecipeError(f"unknown case: {', '.join(unknown)}; expected one of {', '.join(cases)}")
    needed = set(only or cases)
    for case in reversed(list(cases.values())):  # a case comes after those that it refers to
        if case.name in needed:
            needed |= {other for other in (case.parent, case.like) if other is not None}
    return [case for case in cases.values() if case.name in needed]


def _keep_settings(out: Path, settings: Settings, seed: str) -> None:
    """Store the settings in a new folder; in a used one, raise RecipeError if the settings differ.

    The random seeds are not compared, so that a later run can add more.
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
        raise RecipeError(f"{out} contains cells of other settings ({differences}): choose another folder")


def _exclusive(out: Path) -> AcquireReturnProxy:
    """Lock the folder, because two runs would measure everything twice. Raises RecipeError if it is locked."""
    try:
        return FileLock(out / ".lock").acquire(timeout=0)
    except Timeout:
        raise RecipeError(
            f"another run is writing to {out}: wait until it ends, or choose another folder"
        ) from None
