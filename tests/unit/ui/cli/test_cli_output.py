"""Output of the command line: hostile text, figures, tables, progress, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from composer.errors import (
    ComposerError,
    ExportError,
    IncompatibleExpertsError,
    MissingTextError,
    RecipeError,
    TrainingDivergedError,
)
from registry.errors import (
    ConflictError,
    IncompatibleError,
    IntegrityError,
    InvalidEmbeddingError,
    InvalidInputError,
    LicenseError,
    NotFoundError,
    RegistryError,
    StorageError,
    UnmappedTensorError,
    UnsafeFileError,
)
from ui.cli import main
from ui.cli.compose import read_recipe
from ui.cli.kit.context import parse_count
from ui.cli.kit.failures import exit_code
from ui.cli.kit.output import (
    Column,
    PlainProgress,
    print_fields,
    print_json,
    print_table,
)
from ui.wording import display
from ui.wording.failures import describe

HEAVY = {
    "torch",
    "transformers",
    "streamlit",
    "sqlalchemy",
    "faiss",
    "sentence_transformers",
    "numpy",
    "pandas",
}


def test_control_and_bidirectional_characters_become_visible_escapes() -> None:
    assert display.printable("a\x1b[2Jb\u202ec\x07\u2066") == "a\\x1b[2Jb\\u202ec\\x07\\u2066"
    assert display.printable("line\nnext\r") == "line\\nnext\\r"
    assert display.printable("line\n\tnext\r", lines=True) == "line\n\tnext\\r"


def test_ordinary_text_of_any_script_is_left_as_it_is() -> None:
    text = "naïve 日本語 עברית क्‍ष 🙂"
    assert display.printable(text) == text


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (999, "999"),
        (10_000, "10 k"),
        (32_608, "32.6 k"),
        (999_960, "1.0 M"),
        (470_000_000, "470 M"),
        (1_300_000_000, "1.3 B"),
    ],
)
def test_parameters_are_counted_as_the_field_counts_them(count: int, shown: str) -> None:
    assert display.parameters(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.2 MB"), (99_960_000, "100 MB")],
)
def test_sizes_are_in_decimal_units(count: int, shown: str) -> None:
    assert display.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.42, "0.4 s"), (59.96, "1 min 0 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")]
)
def test_durations_are_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert display.duration(seconds) == shown


@pytest.mark.parametrize(("score", "shown"), [(0.713, "0.71"), (-0.04, "−0.04"), (-0.001, "0.00")])
def test_cosines_have_two_digits_and_no_negative_zero(score: float, shown: str) -> None:
    assert display.cosine(score) == shown


@pytest.mark.parametrize(
    ("text", "count"), [("300000", 300_000), ("300k", 300_000), ("1.5M", 1_500_000), ("0", 0)]
)
def test_token_counts_may_carry_a_unit(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "many", "-5", "3x", "1.5.2k"])
def test_a_token_count_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="300k"):
        parse_count(text)


def test_a_table_for_a_pipe_is_plain_unfolded_and_inert(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    print_table(
        [
            {"name": "[red]a[/red] :smile: \x1b[31m", "size": 1234, "ok": None},
            {"name": long, "size": 5, "ok": True},
        ],
        [
            Column("name", "Name"),
            Column("size", "Size", show=display.size, justify="right"),
            Column("ok", "Ok"),
        ],
        empty="nothing",
    )
    out = capsys.readouterr().out
    assert "[red]a[/red] :smile: \\x1b[31m" in out
    assert long in out
    assert "1.2 kB" in out and "–" in out and "yes" in out
    assert "\x1b" not in out


def test_an_empty_table_prints_a_message_on_standard_error_and_no_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table([], [Column("name", "Name")], empty="no experts yet")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "no experts yet\n"


def test_fields_leave_out_what_is_absent(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"name": "law@1", "withdrawn": None, "about": "", "anchored": False})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "law@1"], ["anchored", "no"]]


def test_json_is_ascii_so_that_no_terminal_can_be_tricked(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": "\u202eevil\x1b[2J", "score": 0.5}
    print_json(data)
    out = capsys.readouterr().out
    assert out.isascii() and "\x1b" not in out
    assert json.loads(out) == data


def test_plain_progress_says_the_beginning_each_quarter_and_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = PlainProgress()
    for done in range(101):
        report("merge", done, 100)
    report("merge", 0, 100)  # the same stage again, for another file
    assert capsys.readouterr().err.splitlines() == [
        "merge: 0 %",
        "merge: 25 %",
        "merge: 50 %",
        "merge: 75 %",
        "merge: 100 %",
        "merge: 0 %",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RegistryError(), 1),
        (StorageError(), 1),
        (ComposerError(), 1),
        (TrainingDivergedError(), 1),
        (ZeroDivisionError(), 1),
        (OSError(28, "No space left on device"), 1),
        (InvalidInputError(), 2),
        (RecipeError(), 2),
        (typer.BadParameter("no"), 2),
        (NotFoundError(), 3),
        (FileNotFoundError(2, "No such file or directory", "recipe.yaml"), 3),
        (UnsafeFileError(), 4),
        (InvalidEmbeddingError(), 4),
        (IncompatibleError("no"), 4),
        (UnmappedTensorError("no"), 4),
        (LicenseError("no"), 4),
        (IntegrityError(), 4),
        (IncompatibleExpertsError(), 4),
        (MissingTextError(), 4),
        (ExportError(), 4),
        (ConflictError(), 5),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_class_has_the_exit_code_of_its_kind(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_one_line_with_hostile_names_escaped() -> None:
    assert describe(NotFoundError("no expert 'a\x1b[2J\nb'")) == ["error: no expert 'a\\x1b[2J b'"]


def test_mismatches_that_the_message_does_not_say_follow_it() -> None:
    error = IncompatibleError(
        "2 mismatches, rope_theta among them", ("rope_theta", "hidden_size: 32, got 64")
    )
    assert describe(error) == ["error: 2 mismatches, rope_theta among them", "  - hidden_size: 32, got 64"]


def test_a_long_list_of_mismatches_is_cut_with_its_rest_counted() -> None:
    lines = describe(IncompatibleError("many", tuple(f"tensor {i:03}" for i in range(50))))
    assert lines[-1] == "  … and 30 more"


def test_an_unexpected_error_says_how_to_see_more() -> None:
    (line,) = describe(ZeroDivisionError("division by zero"))
    assert line == (
        "error: unexpected ZeroDivisionError: division by zero; to see the traceback, add --debug before the command"
    )


def test_the_options_of_the_command_line_override_the_recipe_file(tmp_path: Path) -> None:
    file = tmp_path / "team.yaml"
    file.write_text(
        "name: file\nseed: smol\nexperts: [a, b]\nrouter: linear\ntraining: {tokens: 7, train: router}\n"
    )
    recipe = read_recipe(file, {"name": "team", "router": "nexus"}, {"tokens": 9})
    assert (recipe.name, recipe.seed, recipe.experts, recipe.router) == ("team", "smol", ["a", "b"], "nexus")
    assert (recipe.training.tokens, recipe.training.train) == (9, "router")


def test_no_verb_prints_help_and_an_unknown_one_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    assert "Compose mixes" in capsys.readouterr().out
    assert main(["serch"]) == 2
    assert "Did you mean 'search'" in capsys.readouterr().err


def test_help_needs_nothing_heavy() -> None:
    """Help must appear in half a second, so it may import no model, database or web library."""
    script = (
        "import sys; from ui.cli import main; main(['--help']); main(['compose', '--help']); "
        "main(['seed', 'add', '--help']); print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Start here" in run.stdout
    assert not HEAVY & set(run.stderr.split())


def test_launchers_of_several_processes_are_refused_for_other_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["list"]) == 2
    assert "torchrun and accelerate launch are for compose, extend, remove" in capsys.readouterr().err


def test_processes_for_a_queued_run_are_the_workers_choice(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seed", "smol", "--experts", "code", "--nproc", "2", "--queue"]
    assert main(["compose", "team", *options]) == 2
    assert "set NEXUSMIX_NPROC for the worker" in capsys.readouterr().err
