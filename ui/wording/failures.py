"""Error descriptions for users: the lines shown in the shell, on a page and in the row of a failed run."""

from __future__ import annotations

import errno
import re

from ui.wording.display import printable

MISMATCHES_SHOWN = 20
LONGEST_ECHO, LONGEST_MESSAGE = 200, 4000  # characters
_LONG_QUOTE = re.compile(rf"'[^'\n]{{{LONGEST_ECHO},}}'|\"[^\"\n]{{{LONGEST_ECHO},}}\"")
_LONG_WORD = re.compile(rf"\S{{{LONGEST_ECHO + 2},}}")


def describe(error: BaseException) -> list[str]:
    """Return one line with the error message, then the error's mismatches that are missing from the message."""
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted: nothing incomplete was published; run the same command again to restart"]
    message = printable(_message(error))
    mismatches = [short(printable(mismatch)) for mismatch in getattr(error, "mismatches", ())]
    unsaid = [mismatch for mismatch in mismatches if mismatch not in message]
    shown = [f"  - {mismatch}" for mismatch in unsaid[:MISMATCHES_SHOWN]]
    if len(unsaid) > MISMATCHES_SHOWN:
        shown.append(f"  … and {len(unsaid) - MISMATCHES_SHOWN} more")
    return [f"error: {message}", *shown]


def _message(error: BaseException) -> str:
    """Return the error's message, with a remedy if the error class cannot provide one."""
    from composer.errors import ComposerError
    from registry.errors import RegistryError

    if isinstance(error, (RegistryError, ComposerError)):
        return short(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, OSError):
        return short(_system_message(error))
    return (
        f"unexpected {type(error).__name__}: {short(' '.join(str(error).split()))}; to see the traceback, add --debug "
        "before the command"
    )


def short(message: str) -> str:
    """Return a message in which each quoted text and each word has at most LONGEST_ECHO characters.

    Messages quote names and values from files of strangers. This bounds those that the raising code did not shorten.
    """
    shortened = _LONG_QUOTE.sub(lambda found: f"{found[0][:LONGEST_ECHO]}…{found[0][0]}", message)
    shortened = _LONG_WORD.sub(lambda found: f"{found[0][:LONGEST_ECHO]}…", shortened)
    return shortened if len(shortened) <= LONGEST_MESSAGE else f"{shortened[: LONGEST_MESSAGE - 1]}…"


def _system_message(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename is not None else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = "; free some disk space and run again" if error.errno == errno.ENOSPC else ""
    return f"{place}{reason}{remedy}"
