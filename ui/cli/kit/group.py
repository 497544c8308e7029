"""The classes of commands and of groups of commands (`nexusmix`, `nexusmix seed`, `nexusmix runs`)."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class PlainFlags:
    """Part of a command class whose help shows no value for flags."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters; flags have an empty metavar."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class Verb(PlainFlags, TyperCommand):
    """A command."""


class Group(PlainFlags, TyperGroup):
    """A group of commands."""
