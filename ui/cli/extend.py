"""`nexusmix extend`: give a mix one more expert, keeping its router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ui.cli.context import (
    ExpertRef,
    Json,
    LicenseOverride,
    MixRef,
    Queue,
    RandomSeed,
    Tokens,
    examples,
    open_registry,
)
from ui.cli.output import note, print_json, progress
from ui.cli.report import print_composed
from ui.cli.runs import print_queued
from ui.cli.shapes import composed_shape

if TYPE_CHECKING:
    from composer.recipe import Training
    from registry.home import Registry

EXAMPLES = examples("nexusmix extend team cooking", "nexusmix extend team@1 cooking@2 --tokens 200k")


def extend(
    ctx: typer.Context,
    mix: MixRef,
    expert: ExpertRef,
    tokens: Tokens = None,
    warm_start: Annotated[
        bool, typer.Option("--warm-start/--no-warm-start", help="Fit the router to the domains first.")
    ] = True,
    license_override: LicenseOverride = None,
    random_seed: RandomSeed = 0,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Extend a mix by one more expert.

    The expert's domain embedding is projected by the mix's own router, of which no parameter is reset. The
    result is the mix's next version, with the old one as its parent.
    """
    from composer.extend import extend as run
    from ui.jobs import submit

    with open_registry(ctx) as registry:
        training = _training(registry, mix, tokens, warm_start, random_seed)
        if queue:
            request = {
                "mix": mix,
                "expert": expert,
                "training": training.model_dump(mode="json"),
                "license_override": license_override,
            }
            print_queued(submit(registry, "extend", request), as_json)
            return
        with progress() as report:
            result = run(
                registry, mix, expert, training=training, license_override=license_override, progress=report
            )
    if as_json:
        print_json(composed_shape(result))
    else:
        print_composed(composed_shape(result))
        note(f"next: nexusmix evaluate {result.mix.ref} --against {result.mix.parent}")


def _training(
    registry: Registry, mix: str, tokens: int | None, warm_start: bool, random_seed: int
) -> Training:
    """How the extension learns: as the mix itself does, but for what the user asked."""
    from composer.mix import find_mix
    from composer.recipe import Training

    _, manifest = find_mix(registry, mix)
    asked: dict[str, Any] = {} if tokens is None else {"tokens": tokens}
    return Training(
        load_balance=manifest.load_balance, warm_start=warm_start, random_seed=random_seed, **asked
    )
