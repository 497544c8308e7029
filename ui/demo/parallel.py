"""Train several experts side by side, one process each, and pass their progress on."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from composer.progress import Progress

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Task:
    """One expert to train: `data` is its domain's folder, `out` the new checkpoint folder."""

    home: Path
    seed: str
    data: Path
    out: Path
    settings: dict[str, Any]


def train_all(tasks: Iterable[Task], progress: Progress) -> None:
    """Train every expert whose folder is not there yet; an interrupted one goes on from its last checkpoint.

    Raises RuntimeError when a worker dies without saying why; an exception of a worker is raised here.
    """
    waiting = [task for task in tasks if not task.out.exists()]
    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue[Any] = context.Queue()
    cores = os.cpu_count() or 1
    places = min(len(waiting), cores)
    running: dict[str, BaseProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < places:
                task = waiting.pop(0)
                process: BaseProcess = context.Process(
                    target=_work, args=(task, cores // places, messages), daemon=True
                )
                process.start()
                running[task.out.name] = process
            _listen(messages, running, progress)
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _listen(messages: Any, running: dict[str, BaseProcess], progress: Progress) -> None:
    """Pass on one message, or notice that a worker is gone."""
    try:
        name, content = messages.get(timeout=POLL_SECONDS)
    except queue.Empty:
        for name, process in running.items():
            if process.exitcode not in (None, 0):
                raise RuntimeError(f"training {name} ended with exit code {process.exitcode}") from None
        return
    if isinstance(content, Exception):
        raise content
    if content is None:
        running.pop(name).join()
    else:
        progress(*content)


def _work(task: Task, threads: int, messages: Any) -> None:
    """The worker's whole life. Ctrl-C reaches the parent too, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    from composer.experts.train import train_expert
    from registry.home import open_registry

    torch.set_num_threads(threads)
    name = task.out.name
    try:
        registry = open_registry(task.home)
        train_expert(
            registry,
            task.seed,
            [task.data],
            task.out,
            progress=lambda *step: messages.put((name, step)),
            **task.settings,
        )
        messages.put((name, None))
    except Exception as error:
        messages.put((name, error))
