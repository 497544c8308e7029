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
def timed(stage: str) -> Iterator[None]:
    """Tell the listener how many seconds the block took, as "<stage> seconds"."""
    started = time.monotonic()
    yield
    measured(f"{stage} seconds", 0, time.monotonic() - started)
