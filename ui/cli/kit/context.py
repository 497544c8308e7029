"""What every verb shares: the global options, the registry they point to, and the option types."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from registry.home import Registry

COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmb]?)", re.IGNORECASE)
COUNT_SCALES = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


@dataclass(frozen=True)
class GlobalOptions:
    """The options that stand before the verb; `home` is None when the environment decides."""

    home: Path | None = None


@contextmanager
def open_registry(ctx: typer.Context, *, frees_room: bool = False) -> Iterator[Registry]:
    """Open the registry that `--home` or the environment names; its connections close with the block.

    A verb that `frees_room` also runs on a full disk.
    """
    from registry import disk_reserve, home

    options: GlobalOptions = ctx.obj or GlobalOptions()
    registry = home.open_registry(options.home, frees_room=frees_room)
    try:
        yield registry
    finally:
        registry.engine.dispose()
        disk_reserve.keep(registry.home)


def parse_count(text: str) -> int:
    """Read a number of tokens: "300000", "300k", "1.5M"."""
    match = COUNT.fullmatch(str(text).strip().replace("_", "").replace(",", ""))
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a count; write for instance 300000, 300k or 1.5M")
    return round(float(match[1]) * COUNT_SCALES[match[2].lower()])


def parse_names(text: str | None) -> list[str] | None:
    """Read names separated by commas: "python,law@2"; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user wrote; who reads them knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


class Verb(TyperCommand):
    """A command whose help shows no value for flags, which take none."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters; a flag's column for its value is empty."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


def examples(*lines: str) -> str:
    """The foot of a verb's help: a heading and its example commands, one a line."""
    body = "\n".join(f"  [cyan]$[/cyan] {line}" for line in lines)
    return f"[bold]Examples[/bold]\n{body}"


def paragraphs(function: Callable[..., object]) -> str:
    """A function's docstring as help: each paragraph one line, for the terminal to wrap."""
    parts = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)


Queue = Annotated[bool, typer.Option("--queue", help="Queue the work for a worker and print the run's id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for scripts.")]
RandomSeed = Annotated[int, typer.Option(min=0, help="The same number gives the same result.")]
Description = Annotated[str, typer.Option(help="A sentence or two for the card.", metavar="TEXT")]
License = Annotated[
    str,
    typer.Option(help="SPDX licence expression, such as Apache-2.0 or 'MIT OR CC-BY-4.0'.", metavar="SPDX"),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        help='Text of the domain: .jsonl lines {"text": …}, text files or a folder. Repeatable.',
        metavar="PATH",
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
        help="Route to these experts only. Masking is not removal: what the others gave to the averaged trunk stays; "
        "use remove for that.",
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(parser=parse_count, metavar="N", help="Length of the training in tokens, as in 300k or 1M."),
]

# How a mix learns, for compose and extend; what is left out takes the default.
TRAINING = "Training"
TrainTokens = Annotated[
    int | None,
    typer.Option(
        parser=parse_count,
        metavar="N",
        help="Tokens of fine-tuning, as in 300k.",
        show_default="100k",
        rich_help_panel=TRAINING,
    ),
]
WarmStart = Annotated[
    bool | None,
    typer.Option(
        "--warm-start/--no-warm-start",
        help="Fit the router to the domains first.",
        show_default="warm-start",
        rich_help_panel=TRAINING,
    ),
]
Train = Annotated[
    str | None,
    typer.Option(
        metavar="PART",
        help="The parts that the fine-tune changes: router, trunk, ffn or all.",
        show_default="all",
        rich_help_panel=TRAINING,
    ),
]
TrainRouter = Annotated[
    bool | None,
    typer.Option(
        "--train-router/--freeze-router",
        help="Train the router in the fine-tune too. An extension then fits the embeddings of all experts anew, "
        "not only the new one's; without a fine-tune this is the default where the trunk is fitted anew.",
        show_default="only a router without a warm start",
        rich_help_panel=TRAINING,
    ),
]
DataMix = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="The domains' shares of the tokens: uniform, proportional to their text, or regmix (found by short "
        "proxy runs).",
        show_default="uniform",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(metavar="X", help="Peak of the schedule.", show_default="0.0003", rich_help_panel=TRAINING),
]
