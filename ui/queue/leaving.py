"""The end of a worker: on SIGTERM or SIGINT, or when the process that started it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Leaving:
    """Whether a worker has been asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the request."""
        self._event.wait(seconds)

    @contextmanager
    def on_signals(self, *, with_parent: bool) -> Iterator[None]:
        """Note SIGTERM and SIGINT in the `with` block; `with_parent`, also the end of standard input."""

        def leave(_signal: int, _frame: FrameType | None) -> None:
            self._event.set()
            for each in before:  # a second signal ends the worker at once
                signal.signal(each, signal.SIG_DFL)

        before = {each: signal.signal(each, leave) for each in (signal.SIGTERM, signal.SIGINT)}
        if with_parent:
            threading.Thread(target=self._read_input, daemon=True).start()
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _read_input(self) -> None:
        while os.read(0, 1):
            pass
        self._event.set()
