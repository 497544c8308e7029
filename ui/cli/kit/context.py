"""Parts that all commands share: the global options, the registry that they open, and the option types."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer import resources
from composer.mix.research import OPTIONS
from composer.variants import DATA_MIXES

if TYPE_CHECKING:
    from registry.home import Registry

COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmb]?)", re.IGNORECASE)
COUNT_SCALES = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


@dataclass(frozen=True)
class GlobalOptions:
    """Options before the command's name. If `home` is None, the environment decides."""

    home: Path | None = None


@contextmanager
def open_registry(ctx: typer.Context, *, frees_room: bool = False) -> Iterator[Registry]:
    """Open the registry that `--home` or the environment names, and close its connections at the end.

    `frees_room` opens it on a full disk too.
    """
    from registry import disk_reserve, home

    options: GlobalOptions = ctx.obj or GlobalOptions()
    registry = home.open_registry(options.home, frees_room=frees_room)
    try:
        yield registry
    finally:
        registry.engine.dispose()
        disk_reserve.keep(registry.home)


def warn_of_withdrawn(registry: Registry, mix: str) -> None:
    """Print a note on standard error if a mix contains withdrawn experts. Raises NotFoundError."""
    from registry.catalog.queries import get_mix
    from ui.cli.kit.output import note
    from ui.wording.display import withdrawn_words

    words = withdrawn_words(get_mix(registry, mix))
    if words:
        note(f"warning: {words}")


def parse_count(text: str) -> int:
    """Read a number of tokens: "300000", "300k", "1.5M"."""
    match = COUNT.fullmatch(str(text).strip().replace("_", "").replace(",", ""))
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a count; expected for instance 300000, 300k or 1.5M")
    return round(float(match[1]) * COUNT_SCALES[match[2].lower()])


def parse_names(text: str | None) -> list[str] | None:
    """Read names separated by commas: "python,law@2". None gives None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def use_processes(count: int | None, *, queue: bool) -> None:
    """Let `count` processes share what follows. Raises BadParameter if the work is for the queue."""
    if count is None:
        return
    if queue:
        raise typer.BadParameter(
            "--nproc is for work that starts here; with --queue, set NEXUSMIX_NPROC for the worker"
        )
    os.environ[resources.PROCESSES_VARIABLE] = str(count)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave; the reader has defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}


def examples(*lines: str) -> str:
    """Last part of a command's help: a heading and one example command per line."""
    body = "\n".join(f"  [cyan]$[/cyan] {line}" for line in lines)
    return f"[bold]Examples[/bold]\n{body}"


def research_values(*flags: str) -> str:
    """Part of a command's help with the research values of these options, which other panels do not list."""
    rows = [
        f"  [cyan]{flag} {row.name}[/cyan]: {row.summary} Verdict: {row.verdict}."
        for flag in flags
        for row in OPTIONS[flag.removeprefix("--").replace("-", "_")].rows()
    ]
    return "\n".join(["[bold]Research values[/bold]", *rows]) + "\n\n"


def paragraphs(function: Callable[..., object]) -> str:
    """Help text from a function's docstring: one line per paragraph, which the terminal wraps."""
    parts = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)


Queue = Annotated[bool, typer.Option("--queue", help="Queue the work for a worker and print the run's id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for scripts.")]
Processes = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Processes of this machine that share the work.",
        show_default="$NEXUSMIX_NPROC, else 1",
    ),
]
RandomSeed = Annotated[int, typer.Option(min=0, help="The same number gives the same result.")]
Description = Annotated[str, typer.Option(help="A sentence or two for the card.", metavar="TEXT")]
License = Annotated[
    str,
    typer.Option(help="SPDX licence expression, such as Apache-2.0 or 'MIT OR CC-BY-4.0'.", metavar="SPDX"),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        help="Text of the domain: JSON lines, JSON, CSV, TSV, Parquet or text files, also as .gz or .zst, a folder "
        "of them, or hf:OWNER/NAME. Repeatable.",
        metavar="PATH",
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of the text in tables.",
        show_default="text, content, messages, or a question and its answer",
    ),
]
SeedFilter = Annotated[str | None, typer.Option(help="Only experts of this seed.", metavar="SEED")]
MixRef = Annotated[
    str, typer.Argument(metavar="MIX", help="The mix: NAME for its newest version, or NAME@N.")
]
ExpertRef = Annotated[
    str, typer.Argument(metavar="EXPERT", help="The expert: NAME (its newest version) or NAME@N.")
]
LicenseOverride = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Combine licences that forbid it; the reason is recorded."),
]
ActiveExperts = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Route to these experts only. The other experts' share of the merged trunk stays; "
        "use the command remove to remove it.",
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(parser=parse_count, metavar="N", help="Length of the training in tokens, as in 300k or 1M."),
]

# Training options of compose and extend. None means the default.
TRAINING = "Training"
TrainTokens = Annotated[
    int | None,
    typer.Option(
        parser=parse_count,
        metavar="N",
        help="Tokens of fine-tuning, as in 300k.",
        show_default="none; 100k for a merged trunk without a warm start",
        rich_help_panel=TRAINING,
    ),
]
WarmStart = Annotated[
    bool | None,
    typer.Option(
        "--warm-start/--no-warm-start",
        help="Fit the router to the domains before the fine-tune.",
        show_default="warm-start",
        rich_help_panel=TRAINING,
    ),
]
Train = Annotated[
    str | None,
    typer.Option(
        metavar="PART",
        help="Parts that the fine-tune changes: router, trunk, ffn, all, or lora: low-rank differences.",
        show_default="all",
        rich_help_panel=TRAINING,
    ),
]
DataMix = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help=f"Shares of the domains in the tokens: {DATA_MIXES.choices()}.",
        show_default="uniform",
        rich_help_panel=TRAINING,
    ),
]
LoraRank = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        metavar="R",
        help="Rank of the low-rank differences by which whole experts are trained.",
        show_default="16",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Peak learning rate of the schedule.",
        show_default="0.001 for whole experts; for a merged trunk 0.0001, or 0.0003 without a warm start",
        rich_help_panel=TRAINING,
    ),
]

# Research options of compose and extend. Their help ends with the verdict of their measurement.
RESEARCH = "Research options"


def _research(name: str, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, help=OPTIONS[name].about, rich_help_panel=RESEARCH, **more)


TopP = Annotated[float | None, _research("top_p", metavar="P")]
NullExperts = Annotated[int | None, _research("null_experts", min=0, metavar="M")]
TrainRouter = Annotated[
    bool | None,
    _research("train_router", "--train-router/--freeze-router"),
]
RegmixRuns = Annotated[int | None, _research("regmix_runs", min=2, metavar="N")]
RegmixTokens = Annotated[int | None, _research("regmix_tokens", parser=parse_count, metavar="N")]
BalanceOver = Annotated[str | None, _research("balance_over", metavar="BATCH")]
ZLoss = Annotated[float | None, _research("z_loss", metavar="X")]
Entropy = Annotated[float | None, _research("entropy", metavar="X")]
DenseToSparse = Annotated[float | None, _research("dense_to_sparse", metavar="X")]
