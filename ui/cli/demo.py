"""`nexusmix demo`: the whole workflow from text to an extended mix, on this machine, in a separate registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ui.cli.kit.context import GlobalOptions, Json, examples
from ui.cli.kit.output import note, print_heading, print_json, print_text, progress
from ui.cli.kit.report import print_evaluation
from ui.wording.display import duration

EXAMPLES = examples("nexusmix demo", "nexusmix --home .demo ui")
HOME = Path(".demo")


def demo(ctx: typer.Context, as_json: Json = False) -> None:
    """Run the whole workflow once, in about 5 minutes.

    Trains four experts on text that is already on this machine. Composes three of them, evaluates the mix, and
    extends it by the fourth. The registry is ./.demo (or --home). A second run is fast and changes nothing.
    After Ctrl-C, the same command resumes.
    """
    from ui.demo.run import run_demo

    options: GlobalOptions = ctx.obj
    with progress() as report:
        result = run_demo(options.home or HOME, progress=report)
    if as_json:
        print_json(result)
    else:
        _print_result(result)


def _print_result(result: dict[str, Any]) -> None:
    for evaluation in result["evaluations"]:
        print_heading(f"{evaluation['mix']}, measured on text that no model was trained on")
        print_evaluation(evaluation)
    for sample in result["samples"]:
        print_heading(f"{sample['mix']} continues {sample['prompt']!r}")
        print_text(sample["prompt"] + sample["text"])
    print_heading("Claims")
    for finding in result["findings"]:
        print_text(f"{'✓' if finding['held'] else '✗'} {finding['claim']}")
    note(f"\ndone in {duration(result['seconds'])}; the report is at {result['report']}")
    note(f"open it in a browser: nexusmix --home {result['home']} ui")
