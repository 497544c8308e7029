"""The compose file names commands, options and settings that exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import registry.home
from ui.cli import app

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def parameters(verb: str) -> set[str]:
    """The options of a command."""
    import typer

    group: Any = typer.main.get_command(app)
    return {
        name
        for parameter in group.commands[verb].params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("service", ["ui", "worker"])
def test_a_service_runs_a_command_with_options_that_exist(service: str) -> None:
    verb, *rest = COMPOSE["services"][service]["command"]
    assert {word for word in rest if word.startswith("--")} <= parameters(verb)


def test_every_setting_is_read_by_the_registry() -> None:
    source = inspect.getsource(registry.home)
    names = [name for name in COMPOSE["x-nexusmix"]["environment"] if name.startswith("NEXUSMIX_")]
    assert len(names) == 3
    for name in names:
        assert name in source or name.removeprefix("NEXUSMIX_").lower() in source


def test_no_password_is_written_in_the_file() -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    for value in re.findall(r"PASSWORD\"?: (\S+)", text):
        assert value.startswith("${")
