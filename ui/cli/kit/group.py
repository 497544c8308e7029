"""The class of command groups (`nexusmix`, `nexusmix seed`, `nexusmix runs`)."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """A group of commands whose help shows no value for flags, as `Verb` does for one command."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters. The help column for the value of a flag is empty."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters
