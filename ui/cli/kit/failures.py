"""Error reporting: each exception becomes an exit code from one table and one line on standard error."""

from __future__ import annotations

import sys
from typing import Final

from ui.wording.display import printable
from ui.wording.failures import describe

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
INCOMPATIBLE: Final = 4
CONFLICT: Final = 5
INTERRUPTED: Final = 130


def exit_codes() -> dict[type[BaseException], int]:
    """Return the exit code of each error class. Other classes use the code of their nearest base class."""
    from composer import errors as composer
    from registry import errors as registry

    return {
        registry.InvalidInputError: USAGE,
        # The usage was correct, but the contents of a file or a vector were not.
        registry.UnsafeFileError: INCOMPATIBLE,
        registry.InvalidEmbeddingError: INCOMPATIBLE,
        registry.NotFoundError: NOT_FOUND,
        registry.ConflictError: CONFLICT,
        registry.IncompatibleError: INCOMPATIBLE,
        registry.IntegrityError: INCOMPATIBLE,
        registry.RegistryError: FAILURE,
        composer.RecipeError: USAGE,
        composer.DeviceError: USAGE,
        composer.IncompatibleExpertsError: INCOMPATIBLE,
        composer.MixFormatError: INCOMPATIBLE,
        composer.MissingTextError: INCOMPATIBLE,
        composer.ExportError: INCOMPATIBLE,
        composer.SignatureError: INCOMPATIBLE,
        composer.ChatTemplateError: INCOMPATIBLE,
        composer.ComposerError: FAILURE,
        FileNotFoundError: NOT_FOUND,
        OSError: FAILURE,
        KeyboardInterrupt: INTERRUPTED,
    }


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error: USAGE for a usage error, otherwise the table's."""
    if _is_usage_error(error):
        return USAGE
    table = exit_codes()
    return next((table[cls] for cls in type(error).__mro__ if cls in table), FAILURE)


def report(error: BaseException, *, debug: bool = False) -> int:
    """Print the error on standard error and return its exit code."""
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    for line in _lines(error):
        print(line, file=sys.stderr)  # noqa: T201
    return exit_code(error)


def _lines(error: BaseException) -> list[str]:
    """Return the lines that describe an error. For a usage error they name the help command."""
    if not _is_usage_error(error):
        return describe(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "nexusmix"
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    if not message:  # a command group without a command has already printed its help
        return []
    return [f"error: {printable(message)}; see '{command} --help'"]


def _is_usage_error(error: BaseException) -> bool:
    """Return whether the command-line parser raised the error (its classes moved between typer releases)."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")
