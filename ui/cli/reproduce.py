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
    seed: Annotated[str, typer.Argument(metavar="SEED", help="A registered seed, or the folder of one.")],
    corpora: Annotated[
        Path, typer.Argument(metavar="CORPORA", help="A folder for each domain: train.jsonl and test.jsonl.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where cells, pictures and the report go.")],
    newcomer: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="The domain of the extension; else the last one.")
    ] = None,
    general: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="The corpus of general text: no expert of its own.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="SPDX", help="The licence of a seed that is given as a folder.")
    ] = None,
    random_seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="Every case is measured once for each.")
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(metavar="30k,100k,300k", help="Three budgets in training-token equivalents."),
    ] = None,
    expert_tokens: Annotated[
        int | None,
        typer.Option(parser=parse_count, metavar="N", help="Training of experts that the registry lacks."),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Bytes of unseen text per domain.")
    ] = None,
    cases: Annotated[
        str | None, typer.Option(metavar="A,B", help="Measure these cases only; the report names them.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few hundred tokens each: to see that it runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Reproduce the paper's evaluation on your own corpora.

    An expert for each domain (taken from the registry if it has one of that name), mixes at several budgets,
    and their extension by the newcomer: our default, Nexus and the linear router as in the paper, dense merging.

    Everything that is measured is kept in OUT at once: Ctrl-C is safe, and the same command goes on. The report is
    OUT/index.html, its figures OUT/results.json. Mixes are not published.
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
        [Column("bar", "Bar"), Column("found", "Found"), Column("met", "")],
        empty="nothing was measured",
    )
    note(f"the report is at {out / PAGE}")


def _numbers(text: str | None) -> tuple[int, ...] | None:
    names = parse_names(text)
    return None if names is None else tuple(parse_count(name) for name in names)
