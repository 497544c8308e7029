"""`nexusmix reproduce`: the paper's evaluation on your own corpora, as one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ui.cli.kit.context import Json, examples, open_registry, parse_count, parse_names
from ui.cli.kit.output import Column, note, print_json, print_table, progress

EXAMPLES = examples(
    "nexusmix reproduce smol ./corpora ./report --newcomer python --general prose",
    "nexusmix reproduce ./SmolLM2-135M ./corpora ./report --license Apache-2.0 --expert-tokens 2M",
    "nexusmix reproduce smol ./corpora ./try --quick",
)


def reproduce(
    ctx: typer.Context,
    seed: Annotated[str, typer.Argument(metavar="SEED", help="A registered seed, or the folder of a seed.")],
    corpora: Annotated[
        Path,
        typer.Argument(
            metavar="CORPORA", help="Folder with one subfolder per domain: train.jsonl, test.jsonl."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the measurements, the figures and the report.")
    ],
    newcomer: Annotated[
        str | None,
        typer.Option(
            metavar="DOMAIN", help="Domain whose expert extends the mixes.", show_default="the last domain"
        ),
    ] = None,
    general: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="Domain of general text; it gets no expert.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Licence of the seed, if SEED is a folder.")
    ] = None,
    random_seeds: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Each case is measured once per random seed.", show_default="0,1,2"
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Three rising budgets in training-token equivalents.",
            show_default="30k,100k,300k",
        ),
    ] = None,
    expert_tokens: Annotated[
        int | None,
        typer.Option(
            parser=parse_count,
            metavar="N",
            help="Training tokens of each expert that is not in the registry.",
            show_default="600k",
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Maximum bytes of held-out text per domain.", show_default="40000"
        ),
    ] = None,
    cases: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Measure only these cases and the cases that they depend on."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small budgets and little text, only to check that it runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Reproduce the paper's evaluation on your own corpora.

    Trains one expert per domain, unless the registry has an expert of that name. Composes mixes at several budgets
    and extends them by the newcomer's expert. Compares this project's default, the paper's Nexus and linear
    routers, and dense merging.

    Each measurement is stored in OUT immediately. After Ctrl-C, the same command resumes. The report is
    OUT/index.html, its data OUT/results.json. Mixes are not published.
    """
    from composer.reproduce.run import PAGE
    from composer.reproduce.run import reproduce as run

    asked: dict[str, Any] = {
        "random_seeds": _numbers(random_seeds),
        "budgets": _numbers(budgets),
        "expert_tokens": expert_tokens,
        "max_bytes": max_bytes,
    }
    with open_registry(ctx) as registry, progress() as report:
        results = run(
            registry,
            seed,
            corpora,
            out,
            newcomer=newcomer,
            general=general,
            license=license,
            quick=quick,
            only=parse_names(cases) or (),
            progress=report,
            **asked,
        )
    if as_json:
        print_json(results)
        return
    words = {True: "met", False: "missed", None: "not measured"}
    print_table(
        [{**row, "met": words[row["met"]]} for row in results["bars"]],
        [Column("bar", "Criterion"), Column("found", "Result"), Column("met", "")],
        empty="nothing was measured",
    )
    note(f"the report is at {out / PAGE}")


def _numbers(text: str | None) -> tuple[int, ...] | None:
    names = parse_names(text)
    return None if names is None else tuple(parse_count(name) for name in names)
