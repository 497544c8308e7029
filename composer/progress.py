"""How long work tells its caller where it stands."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); total 0 means unknown."""


def silent(stage: str, done: int, total: int) -> None:
    """The progress of callers that do not want any."""
