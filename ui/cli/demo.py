"""`nexusmix demo`: the main job from text to an extended mix, on this machine, in a registry of its own."""

from __future__ import annotations

import typer

from ui.cli.context import GlobalOptions, Json, examples
from ui.cli.output import print_json, progress

EXAMPLES = examples("nexusmix demo", "nexusmix --home .demo ui")


def demo(ctx: typer.Context, as_json: Json = False) -> None:
    """See everything once, in about 5 minutes.

    Four experts are trained on text that is already on this machine, three are composed and evaluated, and
    the mix is extended by the fourth. It lives in ./.demo (or --home). A second run is quick and changes
    nothing; after Ctrl-C it goes on.
    """
    from pathlib import Path

    from ui.demo.run import run_demo

    options: GlobalOptions = ctx.obj
    with progress() as report:
        result = run_demo(options.home or Path(".demo"), progress=report)
    if as_json:
        print_json(result)
