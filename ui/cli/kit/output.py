"""Output: results on standard output as a table or JSON, progress and notes on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ui.wording.display import duration, printable, share

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Progress = Callable[[str, int, int], None]

# Width for pipes, large enough that no line is folded or cut for a program that reads it.
PIPE_WIDTH = 10_000
PLAIN_STEP = 0.25


@dataclass(frozen=True)
class Column:
    """One column of a table: the key of its value in each row, its title and its format."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    justify: Literal["left", "right"] = "left"
    style: str = ""


def print_json(data: Any) -> None:
    """Print one JSON document. Non-ASCII characters are escaped, so it cannot control the terminal."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Print untrusted text with its control characters escaped and its line breaks kept."""
    sys.stdout.write(printable(text, lines=True) + "\n")


def print_heading(text: str) -> None:
    """Print a heading that separates one table from the next."""
    _console().print()
    _console().print(_cell(text, "bold"), soft_wrap=True)


def note(text: str) -> None:
    """Print a note for the user on standard error."""
    _console(stderr=True).print(_cell(text, "dim", lines=True), soft_wrap=True)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, empty: str) -> None:
    """Print rows as a table, or the note `empty` if there are none."""
    if not rows:
        note(empty)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify=column.justify, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(_value(row.get(c.key), c.show), c.style) for c in columns))
    _console().print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print fields as lines of name and value, without absent values."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, ""):
            table.add_row(name, _cell(_value(value, str), ""))
    _console().print(table)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress while the block runs: bars on a terminal, otherwise a few plain lines."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    with BarProgress() as bars:
        yield bars


class BarProgress:
    """Progress bars of the active stages. A finished stage becomes one line above them."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=_console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._finished: set[str] = set()

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `stage` are finished; `total` is 0 if unknown."""
        if total and done >= total:
            self._finish(stage)
            return
        self._finished.discard(stage)
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(printable(stage), total=total or None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)

    def _finish(self, stage: str) -> None:
        if stage in self._finished:
            return
        self._finished.add(stage)
        seconds = 0.0
        if stage in self._tasks:
            task = self._tasks.pop(stage)
            seconds = next((t.elapsed or 0.0 for t in self._bars.tasks if t.id == task), 0.0)
            self._bars.remove_task(task)
            self._bars.refresh()
        self._bars.console.print(_cell(f"✓ {stage}  {duration(seconds)}", "dim"))


class PlainProgress:
    """Progress for logs: a line when a stage begins, at each quarter and at its end."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print that `done` of `total` steps of `stage` are finished, at most once per quarter."""
        part = done / total if total else 0.0
        if done and part < self._next.get(stage, 0.0):
            return
        self._next[stage] = part // PLAIN_STEP * PLAIN_STEP + PLAIN_STEP
        sys.stderr.write(f"{printable(stage)}: {share(part)}\n")
        sys.stderr.flush()


def _value(value: Any, show: Callable[[Any], str]) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return show(value)


def _cell(text: str, style: str, *, lines: bool = False) -> Any:
    """Return text that rich prints literally: no markup, emoji codes or control characters."""
    from rich.text import Text

    return Text(printable(text, lines=lines), style=style)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)
