"""How long work tells its caller where it stands, and whoever listens what it measures on the way."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); total 0 means unknown."""

Measure = Callable[[str, int, float], None]
"""Called with (name, step, value), such as ("loss", 120, 2.31)."""


def silent(stage: str, done: int, total: int) -> None:
    """The progress of callers that do not want any."""


STAGE_SECONDS = " stage seconds"  # how the names of figures end that `timed` measures

_listener: ContextVar[Measure | None] = ContextVar("listener", default=None)


@contextmanager
def measuring(listener: Measure) -> Iterator[None]:
    """Hand every figure that the work inside the block measures to `listener`.

    Ambient, as logging is: a training loop has figures to tell that no layer between it and the screen wants
    to know of.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def measured(name: str, step: int, value: float) -> None:
    """Tell the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(name, step, value)


@contextmanager
def added_up(ending: str) -> Iterator[dict[str, float]]:
    """Sums of the figures measured inside the block whose name ends so, by the rest of their name.

    Whoever listens outside hears everything as before.
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
    """Tell the listener how many seconds the block took, by the stage's name."""
    started = time.monotonic()
    yield
    measured(stage + STAGE_SECONDS, 0, time.monotonic() - started)
