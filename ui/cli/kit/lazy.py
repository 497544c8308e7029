"""Commands that are imported when they are used, so that a command does not wait for the imports of the others."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

from ui.cli.kit.context import paragraphs
from ui.cli.kit.group import Verb


@dataclass(frozen=True)
class Row:
    """A command or a group of commands: its name, its file and function, and its panel in the help.

    The examples of a command are `<FUNCTION>_EXAMPLES` of its file, or else `EXAMPLES`. A function `app` is a group.
    """

    name: str
    function: str
    panel: str
    help: str | None = None

    def build(self) -> Any:
        """Import the file and return the command."""
        module_name, name = self.function.split(".")
        module = import_module(f"ui.cli.{module_name}")
        made = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
        made.callback()(lambda: None)  # without it, typer returns a single command in place of a group
        if name == "app":
            own: dict[str, Any] = {} if self.help is None else {"help": self.help}
            made.add_typer(module.app, name=self.name, rich_help_panel=self.panel, **own)
        else:
            function = getattr(module, name)
            examples = getattr(module, f"{name.upper()}_EXAMPLES", None) or getattr(module, "EXAMPLES", None)
            made.command(
                self.name,
                cls=Verb,
                rich_help_panel=self.panel,
                help=paragraphs(function),
                epilog=examples,
            )(function)
        group: Any = typer.main.get_command(made)
        return group.commands[self.name]


class Commands(MutableMapping[str, Any]):
    """The commands of rows by name, each built when it is first read."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self._rows: dict[str, Any] = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> Any:
        found = self._rows[name]
        if isinstance(found, Row):
            found = self._rows[name] = found.build()
        return found

    def __setitem__(self, name: str, command: Any) -> None:
        self._rows[name] = command

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
