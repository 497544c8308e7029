"""From an exception to what the user gets: an exit code from one table, and one line on standard error."""

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
    """The exit code of each error class; a class that is not named takes that of its nearest ancestor."""
    from composer import errors as composer
    from registry import errors as registry

    return {
        registry.InvalidInputError: USAGE,
        # A file or a vector that came from elsewhere: the command was right, what it was given was not.
        registry.UnsafeFileError: INCOMPATIBLE,
        registry.InvalidEmbeddingError: INCOMPATIBLE,
        registry.NotFoundError: NOT_FOUND,
        registry.ConflictError: CONFLICT,
        registry.IncompatibleError: INCOMPATIBLE,
        registry.IntegrityError: INCOMPATIBLE,
        registry.RegistryError: FAILURE,
        composer.RecipeError: USAGE,
        composer.IncompatibleExpertsError: INCOMPATIBLE,
        composer.MixFormatError: INCOMPATIBLE,
        composer.MissingTextError: INCOMPATIBLE,
        composer.ExportError: INCOMPATIBLE,
        composer.ComposerError: FAILURE,
        FileNotFoundError: NOT_FOUND,
        OSError: FAILURE,
        KeyboardInterrupt: INTERRUPTED,
    }


def exit_code(error: BaseException) -> int:
    """The exit code for an error: its own for a usage error, the table's for the others."""
    if _is_usage_error(error):
        return USAGE
    table = exit_codes()
    return next((table[cls] for cls in type(error).__mro__ if cls in table), FAILURE)


def report(error: BaseException, *, debug: bool = False) -> int:
    """Tell the user on standard error what went wrong and return the exit code."""
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    for line in _lines(error):
        print(line, file=sys.stderr)  # noqa: T201
    return exit_code(error)


def _lines(error: BaseException) -> list[str]:
    """The lines for an error; a usage error's says which help to read."""
    if not _is_usage_error(error):
        return describe(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "nexusmix"
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    if not message:  # a group without a verb has printed its help already
        return []
    return [f"error: {printable(message)}; see '{command} --help'"]


def _is_usage_error(error: BaseException) -> bool:
    """Whether the command-line parser raised it (its classes moved between releases of typer)."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")
