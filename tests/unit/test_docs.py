"""The documents name only existing commands, make targets, files and folders."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from composer.evaluation.evaluate import MAX_BYTES
from composer.experts.train import train_expert
from composer.mix.recipe import LORA_LEARNING_RATE, UNSOLVED_TOKENS, Training
from composer.reproduce.plan import Settings
from ui.cli import app

ROOT = Path(__file__).parents[2]


def _verbs(group: Any, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, f"{prefix}{name} ")
        else:
            yield prefix + name


VERBS = list(_verbs(typer.main.get_command(app)))


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_is_in_the_list_of_commands(verb: str) -> None:
    assert f"`{verb}`" in (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", [*VERBS, "", "seed", "runs"])
def test_a_flag_shows_no_value_in_the_help(verb: str) -> None:
    outcome = CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "200"})
    assert "bool" not in outcome.output


def test_the_defaults_in_the_help_are_those_of_the_recipe() -> None:
    command: Any = typer.main.get_command(app)
    shown = {option.name: option.show_default for option in command.commands["extend"].params}
    training = Training()
    assert not training.tokens
    assert shown["tokens"] == f"none; {UNSOLVED_TOKENS // 1000}k for a merged trunk without a warm start"
    assert shown["warm_start"] == ("warm-start" if training.warm_start else "no-warm-start")
    assert shown["train"] == training.train
    assert shown["data_mix"] == training.data_mix
    assert shown["learning_rate"] == (
        f"{LORA_LEARNING_RATE} for whole experts; for a merged trunk {training.learning_rate:.4f}, or "
        f"{Training(warm_start=False).learning_rate} without a warm start"
    )
    assert shown["lora_rank"] == str(training.lora_rank)


def test_the_other_defaults_in_the_help_are_those_of_the_functions() -> None:
    command: Any = typer.main.get_command(app)
    shown = {
        (verb, option.name): option.show_default
        for verb in ("evaluate", "train-expert", "reproduce")
        for option in command.commands[verb].params
    }
    settings: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert shown["evaluate", "max_bytes"] == str(MAX_BYTES)
    learning_rate = inspect.signature(train_expert).parameters["learning_rate"].default
    assert shown["train-expert", "learning_rate"] == str(learning_rate)
    assert shown["reproduce", "random_seeds"] == ",".join(map(str, settings["random_seeds"]))
    assert shown["reproduce", "budgets"] == ",".join(f"{budget // 1000}k" for budget in settings["budgets"])
    assert shown["reproduce", "expert_tokens"] == f"{settings['expert_tokens'] // 1000}k"
    assert shown["reproduce", "max_bytes"] == str(settings["max_bytes"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_and_json(verb: str) -> None:
    command: Any = typer.main.get_command(app)
    for name in verb.split():
        command = command.commands[name]
    assert command.help
    assert "--json" in {option for parameter in command.params for option in parameter.opts}


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", "docs/TOUR.md"):
        named = set(re.findall(r"`?\bmake ([a-z]+)`", (ROOT / document).read_text(encoding="utf-8")))
        assert named <= targets, document


def test_the_tree_of_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"## The tree\n\n```\n(.*?)```", text, re.DOTALL)
    named: dict[str, set[str]] = {}
    package = ""
    for line in tree.splitlines():
        if match := re.match(r"( *)(\w+)/ ", line):
            package = package if match[1] else match[2]
            named.setdefault(package, set()).update({match[2]} if match[1] else ())
    for package in ("registry", "composer", "ui"):
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert named[package] == rooms, package


def test_every_file_that_the_documents_name_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "docs/TOUR.md", "docs/COMMANDS.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for file in re.findall(
            r"(?<![\w/.-])((?:registry|composer|ui|tests|bench|docs)/[\w./-]+\.\w+)", text
        ):
            assert (ROOT / file).exists(), f"{document}: {file}"


def test_every_folder_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder in re.findall(r"`((?:registry|composer|ui|tests|bench|docs)/[a-z/]*)`", text):
        assert (ROOT / folder).is_dir(), folder
