"""`nexusmix remove`: recompose a mix without one of its experts."""

from __future__ import annotations

import typer

from ui.cli.kit.context import ExpertRef, Json, MixRef, TrainTokens, examples, open_registry
from ui.cli.kit.output import print_json, progress
from ui.cli.kit.report import print_composed
from ui.wording.shapes import composed_shape

EXAMPLES = examples("nexusmix remove team cooking", "nexusmix remove team cooking --tokens 100k")


def remove(
    ctx: typer.Context, mix: MixRef, expert: ExpertRef, tokens: TrainTokens = None, as_json: Json = False
) -> None:
    """Recompose a mix without one expert.

    The new version contains nothing of the expert's weights.
    """
    from composer.extension import remove as run

    with open_registry(ctx) as registry, progress() as report:
        result = run(registry, mix, expert, tokens=tokens, progress=report)
    if as_json:
        print_json(composed_shape(result))
    else:
        print_composed(composed_shape(result))
