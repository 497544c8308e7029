"""Progress reports of long tasks to their caller, and measured figures (such as the loss) to a listener."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, int, int], None]
"""Callback with (stage, done, total); total 0 means unknown."""

Measure = Callable[[str, int, float], None]
"""Callback with (name, step, value), such as ("loss", 120, 2.31)."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore the progress; the default for callers that do not need it."""


STAGE_SECONDS = " stage seconds"  # suffix of the names of figures that `timed` measures

_listener: ContextVar[Measure | None] = ContextVar("listener", default=None)


@contextmanager
def measuring(listener: Measure) -> Iterator[None]:
    """Pass every figure that is measured inside the `with` block to `listener`.

    The listener is ambient, like a logger, so the layers between the training loop and the screen need not pass it on.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def measured(name: str, step: int, value: float) -> None:
    """Report a figure to the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(name, step, value)


@contextmanager
def added_up(ending: str) -> Iterator[dict[str, float]]:
    """Sum the figures inside the `with` block whose names end with `ending`, by the rest of the name.

    An outer listener still receives every figure.
    """
    outer = _listener.get()
    sums: dict[str, float] = {}

    def listen(name: str, step: int, value: float) -> None:
        if name.endswith(ending):
            sums[name.removesuffix(ending)] = sums.get(name.removesuffix(ending), 0.0) + value
        if outer is not None:
            outer(name, step, value)

    with measuring(listen):
        yield sums


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Report the duration of the `with` block in seconds under the stage's name."""
    started = time.monotonic()
    yield
    measured(stage + STAGE_SECONDS, 0, time.monotonic() - started)
