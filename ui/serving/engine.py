"""Generation for the API: one at a time, a bounded number of requests that wait, and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ui.serving.errors import ApiError

if TYPE_CHECKING:
    from composer.generation import Finish, Token


@dataclass(frozen=True)
class End:
    """The end of a generation, with its reason."""

    finish: Finish


class Engine:
    """Runs generations in one thread, in the order of their arrival."""

    def __init__(self, most_waiting: int) -> None:
        self._most = most_waiting + 1
        self._present = 0
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generation")

    async def run(self, stream: Generator[Token, None, Finish]) -> AsyncGenerator[Token | End, None]:
        """Yield the stream's tokens, then its end. Closing this generator ends the generation after its current token.

        Raises ApiError with status 429 if too many requests wait already, and the errors of the stream.
        """
        if self._present >= self._most:
            raise ApiError(
                429,
                f"{self._present} requests are being answered or waiting, which is this server's limit: try again "
                "later, or start the server with a larger --queue",
                type="rate_limit_error",
                code="queue_full",
            )
        self._present += 1
        loop = asyncio.get_running_loop()
        try:
            async with self._turn:
                try:
                    while True:
                        step = await loop.run_in_executor(self._thread, _next, stream)
                        yield step
                        if isinstance(step, End):
                            return
                finally:
                    # Not awaited: this may run in a task that is being cancelled. The thread closes the stream before
                    # it starts the next one.
                    self._thread.submit(stream.close)
        finally:
            self._present -= 1


def _next(stream: Generator[Token, None, Finish]) -> Token | End:
    try:
        return next(stream)
    except StopIteration as end:
        return End(end.value)
