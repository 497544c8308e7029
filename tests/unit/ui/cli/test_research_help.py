"""The help of compose and extend shows research options in a panel of their own, each with its verdict."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from composer.mix.research import OPTIONS
from ui.cli import app
from ui.cli.kit.context import RESEARCH

# Values of the options --router, --trunk-merge and --data-mix: the flags stay in their panels.
PLAIN = {name for name, option in OPTIONS.items() if option.variants is None}
OF_TRAINING = {name for name in PLAIN if OPTIONS[name].training}


@pytest.mark.parametrize(("verb", "names"), [("compose", PLAIN), ("extend", OF_TRAINING)])
def test_one_panel_has_all_research_options_and_each_ends_with_its_verdict(
    verb: str, names: set[str]
) -> None:
    command: Any = typer.main.get_command(app)
    panel = {
        option.name: option
        for option in command.commands[verb].params
        if getattr(option, "rich_help_panel", None) == RESEARCH
    }
    assert panel.keys() == names
    for name, option in panel.items():
        assert option.help.endswith(f"Verdict: {OPTIONS[name].verdict}.")
        assert option.show_default is True and option.default is None  # nothing follows the verdict
        assert f"--{name.replace('_', '-')}" in option.opts


@pytest.mark.parametrize(("verb", "options"), [("compose", PLAIN), ("extend", OF_TRAINING)])
def test_no_other_panel_names_a_research_option_or_value(verb: str, options: set[str]) -> None:
    output = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "250", "NO_COLOR": "1"}).output
    proven, _, research = output.partition("─ Research options ─")
    assert research
    flags = {f"--{name.replace('_', '-')}" for name in options}
    assert [flag for flag in flags if flag in proven or flag not in research] == []
    rows = [row for name in OPTIONS for row in OPTIONS[name].rows()]
    words = re.findall(r"[\w-]+", proven)
    assert "uniform" in words and [row.name for row in rows if row.name in words] == []
    shown = rows if verb == "compose" else OPTIONS["data_mix"].rows()
    assert [
        row.name for row in shown if f" {row.name}: {row.summary} Verdict: {row.verdict}." not in research
    ] == []
