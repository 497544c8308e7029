"""`nexusmix extend`: give a mix one more expert, keeping its router."""

from __future__ import annotations

import typer

from ui.cli.context import ExpertRef, Json, MixRef, RandomSeed, Tokens, examples, open_registry
from ui.cli.output import note, print_json, progress
from ui.cli.report import print_composed
from ui.cli.shapes import composed_shape

EXAMPLES = examples("nexusmix extend team cooking", "nexusmix extend team@1 cooking@2 --tokens 200k")


def extend(
    ctx: typer.Context,
    mix: MixRef,
    expert: ExpertRef,
    tokens: Tokens = None,
    random_seed: RandomSeed = 0,
    as_json: Json = False,
) -> None:
    """Extend a mix by one more expert.

    The expert's domain embedding is projected by the mix's own router, of which no parameter is reset. The
    result is the mix's next version, with the old one as its parent.
    """
    from composer.extend import extend as run

    chosen = {} if tokens is None else {"tokens": tokens}
    with open_registry(ctx) as registry, progress() as report:
        result = run(registry, mix, expert, random_seed=random_seed, progress=report, **chosen)
    if as_json:
        print_json(composed_shape(result))
    else:
        print_composed(composed_shape(result))
        note(f"next: nexusmix evaluate {result.mix.ref} --against {result.mix.parent}")
