"""Processes that share the work of a composition: the first one leads and alone writes, the others follow.

The leader runs the composition as in one process. Where work is shared, it sends the followers a task, and all of them
run this together over torch.distributed. There are two ways to start them:

    NEXUSMIX_NPROC=4, or nexusmix compose --nproc 4     the leader starts its followers on this machine
    torchrun, accelerate launch                         every process runs the same program

The number of processes is a resource, as the device is. It is not part of a recipe or a lock.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from composer import resources
from composer.errors import ComposerError, ProcessLostError
from composer.helpers import PATIENCE, Helper, backend, end_with_leader, meet, started
from registry.errors import RegistryError
from registry.home import Registry, open_registry

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")

DYING_SECONDS = 10.0  # between the end of a connection and the end of its process
# Set by torchrun and accelerate. The Trainer must not read them: it runs in each process as if it were alone.
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR")
TASK, RESULT, ERROR = "task", "result", "error"


@dataclass
class Team:
    """The processes of a composition, as one of them sees it; one process alone is a team, too."""

    rank: int = 0
    size: int = 1
    registry: Registry | None = None
    helpers: list[Helper] = field(default_factory=list)  # processes that this one started
    is_broken: bool = False  # the others may wait for something else than the leader does

    @property
    def leads(self) -> bool:
        """Whether this process leads."""
        return self.rank == 0

    def share(self, task: Callable[..., R], *args: Any, **own: Any) -> R:
        """Run `task(team, *args)` in all processes, and return the leader's result. Only its call gets `own`.

        `task` is a function of a module; the arguments must be picklable. A follower in which it raises ends.
        Raises the leader's error, or ProcessLostError if another process ended.
        """
        assert self.leads
        with self._watched():
            self._send(TASK, (task.__module__, task.__qualname__, args))
            try:
                return task(self, *args, **own)
            except BaseException:
                self.is_broken = True
                raise

    def follow(self) -> Any:
        """Run the leader's tasks until it has finished, and return its result.

        Raises its error, whose attribute `of_leader` is then true, or ProcessLostError.
        """
        with self._watched():
            while True:
                kind, value = self._receive()
                if kind == RESULT:
                    return value
                if kind == ERROR:
                    value.of_leader = True
                    raise value
                module, name, args = value
                getattr(importlib.import_module(module), name)(self, *args)

    def dismiss(self, kind: str, value: Any) -> None:
        """Send the followers the leader's result or error. Followers that have ended do not matter."""
        if self.is_broken:
            from torch import distributed

            distributed.destroy_process_group()  # closes the connections, which ends the others
            return
        try:
            self._send(kind, value)
        except Exception as error:
            if not _is_lost(error):
                raise

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the processes."""
        return self.total(value) / self.size

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the processes, without a gradient."""
        if self.size == 1:
            return value
        from torch import distributed

        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def agreed(self, value: R) -> R:
        """Return the leader's value in all processes."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.agreed(None)

    def own(self, rows: list[Any]) -> list[Any]:
        """Return this process's share of some rows; all of them if they cannot be shared equally."""
        if len(rows) % self.size:
            return rows
        count = len(rows) // self.size
        return rows[self.rank * count :][:count]

    def _send(self, kind: str, value: Any) -> None:
        self.agreed((kind, value))

    def _receive(self) -> tuple[str, Any]:
        return self.agreed(("", None))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (ComposerError, RegistryError):
            raise
        except Exception as error:
            if not _is_lost(error):
                raise
            raise ProcessLostError(
                f"{self._cause()}; nothing incomplete was published: run the same command again, it resumes from the "
                "last checkpoint"
            ) from error

    def _cause(self) -> str:
        deadline = time.monotonic() + (DYING_SECONDS if self.helpers else 0)
        while self.helpers and time.monotonic() < deadline:
            for helper in self.helpers:
                if helper.process.poll() is not None:
                    return helper.cause(self.size)
            time.sleep(0.05)
        return f"one of the {self.size} processes of this composition ended"


ALONE = Team()
_current: ContextVar[Team] = ContextVar("team", default=ALONE)
_launched: Team | None = None  # of torchrun: it exists until the program ends
_one_team = threading.Lock()  # torch.distributed has one default group in a process


def current() -> Team:
    """Return the team of the composition that runs here; a team of one outside a composition."""
    return _current.get()


def led(
    function: Callable[Concatenate[Registry, P], R],
) -> Callable[Concatenate[Registry, P], R]:
    """Let the first process of a team run a use case, while the others follow it and return the same result."""

    @functools.wraps(function)
    def wrapper(registry: Registry, *args: P.args, **kwargs: P.kwargs) -> R:
        if current() is not ALONE or not (is_launched() or resources.processes() > 1):
            return function(registry, *args, **kwargs)
        with _team(registry) as team:
            if not team.leads:
                followed: R = team.follow()
                return followed
            try:
                result = function(registry, *args, **kwargs)
            except BaseException as error:
                team.dismiss(ERROR, _picklable(error))
                raise
            team.dismiss(RESULT, result if team is _launched else None)
            return result

    return wrapper


def is_launched() -> bool:
    """Return whether torchrun or accelerate started this process as one of several."""
    return _launched is not None or int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_follower() -> bool:
    """Return whether torchrun or accelerate started this process, and another one leads."""
    rank = _launched.rank if _launched is not None else int(os.environ.get("RANK", 0))
    return is_launched() and rank > 0


@contextmanager
def _team(registry: Registry) -> Iterator[Team]:
    with ExitStack() as stack:
        team = (
            _join(registry)
            if is_launched()
            else stack.enter_context(_with_helpers(registry, resources.processes()))
        )
        token = _current.set(team)
        stack.callback(_current.reset, token)
        yield team


def _join(registry: Registry) -> Team:
    """Join the processes that a launcher started, once. Raises ProcessLostError if one of them has ended."""
    global _launched
    if _launched is not None and _launched.is_broken:
        raise ProcessLostError("the processes of this program are no longer connected: start it again")
    if _launched is None:
        from torch import distributed

        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        chosen = backend(int(os.environ.get("LOCAL_RANK", rank)))
        distributed.init_process_group(chosen, timeout=PATIENCE)
        here = os.environ.get("LOCAL_WORLD_SIZE", "1")
        for name in LAUNCHED:
            os.environ.pop(name, None)
        os.environ[resources.PROCESSES_VARIABLE] = here  # they share the memory of this machine
        _launched = Team(rank, size)
    _launched.registry = registry
    return _launched


@contextmanager
def _with_helpers(registry: Registry, size: int) -> Iterator[Team]:
    """Start followers on this machine, and lead them until the `with` block ends."""
    import torch
    from torch import distributed

    threads = torch.get_num_threads()
    each = max(1, threads // size)
    with _one_team, tempfile.TemporaryDirectory(prefix="nexusmix-") as folder, ExitStack() as stack:
        place = Path(folder, "rendezvous")
        helpers = [stack.enter_context(started(registry, rank, size, place, each)) for rank in range(1, size)]
        team = Team(0, size, registry, helpers)
        with team._watched():
            meet(0, size, place)
        stack.callback(lambda: distributed.is_initialized() and distributed.destroy_process_group())
        torch.set_num_threads(each)
        stack.callback(torch.set_num_threads, threads)
        yield team


def _is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process ended; gloo has no class for it."""
    from torch import distributed

    chain: BaseException | None = error
    while chain is not None:
        text = str(chain)
        if isinstance(chain, distributed.DistError) or (
            isinstance(chain, RuntimeError) and ("gloo" in text or "Connection closed by peer" in text)
        ):
            return True
        chain = chain.__cause__
    return False


def _picklable(error: BaseException) -> BaseException:
    """Return the error, or one with the same message if it cannot be sent."""
    try:
        copy: BaseException = pickle.loads(pickle.dumps(error))
        return copy
    except Exception:
        return ComposerError(str(error))


def follow(rank: str, size: str, place: str) -> None:
    """Follow a leader on this machine: the main function of a helper."""
    threading.Thread(target=end_with_leader, daemon=True).start()
    meet(int(rank), int(size), Path(place))
    Team(int(rank), int(size), open_registry()).follow()
