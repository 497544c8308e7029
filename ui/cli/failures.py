"""From an exception to what the user gets: an exit code from one table, and one line on standard error."""

from __future__ import annotations

import errno
import sys
from typing import Final

from ui.display import printable

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
INCOMPATIBLE: Final = 4
CONFLICT: Final = 5
INTERRUPTED: Final = 130

MISMATCHES_SHOWN = 20


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
    for line in describe(error):
        print(line, file=sys.stderr)  # noqa: T201
    return exit_code(error)


def describe(error: BaseException) -> list[str]:
    """One line that says what happened, then the mismatches if the error lists any that it does not say."""
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted: nothing half-done was published; the same command starts again"]
    if _is_usage_error(error):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "nexusmix"
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        if not message:  # a group without a verb has printed its help already
            return []
        return [f"error: {printable(message)}; see '{command} --help'"]
    message = printable(_message(error))
    mismatches = [printable(mismatch) for mismatch in getattr(error, "mismatches", ())]
    unsaid = [mismatch for mismatch in mismatches if mismatch not in message]
    shown = [f"  - {mismatch}" for mismatch in unsaid[:MISMATCHES_SHOWN]]
    if len(unsaid) > MISMATCHES_SHOWN:
        shown.append(f"  … and {len(unsaid) - MISMATCHES_SHOWN} more")
    return [f"error: {message}", *shown]


def _message(error: BaseException) -> str:
    """What an error says, with the remedy where the error itself cannot know it."""
    from composer.errors import ComposerError
    from registry.errors import RegistryError

    if isinstance(error, (RegistryError, ComposerError)):
        return " ".join(str(error).split("\n")) or type(error).__name__
    if isinstance(error, OSError):
        return _system_message(error)
    return f"unexpected {type(error).__name__}: {error}; for the traceback, write --debug before the verb"


def _system_message(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename is not None else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = "; free some space and run again" if error.errno == errno.ENOSPC else ""
    return f"{place}{reason}{remedy}"


def _is_usage_error(error: BaseException) -> bool:
    """Whether the command-line parser raised it (its classes moved between releases of typer)."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")
