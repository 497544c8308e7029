"""`nexusmix extend`: give a mix one more expert, keeping its router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ui.cli.context import (
    ExpertRef,
    Json,
    LicenseOverride,
    MixRef,
    RandomSeed,
    Tokens,
    examples,
    open_registry,
)
from ui.cli.output import note, print_json, progress
from ui.cli.report import print_composed
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
    license_override: LicenseOverride = None,
    random_seed: RandomSeed = 0,
    as_json: Json = False,
) -> None:
    """Extend a mix by one more expert.

    The expert's domain embedding is projected by the mix's own router, of which no parameter is reset. The
    result is the mix's next version, with the old one as its parent.
    """
    from composer.extend import extend as run

    with open_registry(ctx) as registry, progress() as report:
        training = _training(registry, mix, tokens, random_seed)
        result = run(
            registry, mix, expert, training=training, license_override=license_override, progress=report
        )
    if as_json:
        print_json(composed_shape(result))
    else:
        print_composed(composed_shape(result))
        note(f"next: nexusmix evaluate {result.mix.ref} --against {result.mix.parent}")


def _training(registry: Registry, mix: str, tokens: int | None, random_seed: int) -> Training:
    """How the extension learns: as the mix itself does, but for what the user asked."""
    from composer.mix import find_mix
    from composer.recipe import Training

    _, manifest = find_mix(registry, mix)
    asked: dict[str, Any] = {} if tokens is None else {"tokens": tokens}
    return Training(load_balance=manifest.load_balance, random_seed=random_seed, **asked)
