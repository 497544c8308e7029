"""The options of the commands that generate text."""

from dataclasses import fields

import pytest
import typer

from ui.cli import app
from ui.cli.kit.sampling import Choices


@pytest.mark.parametrize(("name", "length"), [("generate", 100), ("chat", 512)])
def test_every_command_that_generates_text_has_the_same_sampling_options(name: str, length: int) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    defaults = {option.name: option.default for option in command.params}
    expected = {each.name: each.default for each in fields(Choices)} | {"max_new_tokens": length}
    assert expected.items() <= defaults.items()
    assert "choices" not in defaults
