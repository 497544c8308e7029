"""What an error tells the user: the lines for the shell, for a page and for the row of a failed run."""

from __future__ import annotations

import errno

from ui.wording.display import printable

MISMATCHES_SHOWN = 20


def describe(error: BaseException) -> list[str]:
    """One line that says what happened, then the mismatches if the error lists any that it does not say."""
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted: nothing half-done was published; the same command starts again"]
    message = printable(_message(error))
    mismatches = [printable(mismatch) for mismatch in getattr(error, "mismatches", ())]
    unsaid = [mismatch for mismatch in mismatches if mismatch not in message]
    shown = [f"  - {mismatch}" for mismatch in unsaid[:MISMATCHES_SHOWN]]
    if len(unsaid) > MISMATCHES_SHOWN:
        shown.append(f"  … and {len(unsaid) - MISMATCHES_SHOWN} more")
    return [f"error: {message}", *shown]


def _message(error: BaseException) -> str:
    """The error's message, with the remedy where the error itself cannot know it."""
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
