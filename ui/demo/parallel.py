"""Parallel training of several experts, in one process each, with progress reports."""

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
    """Train all experts whose folders do not exist. An interrupted training resumes from its last checkpoint.

    Raises RuntimeError when a worker dies without an exception. An exception of a worker is raised again here.
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
    """Handle one message of a worker, or detect that a worker has died."""
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
    """Train one expert in a worker process. The worker ignores Ctrl-C, because its parent terminates it."""
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
