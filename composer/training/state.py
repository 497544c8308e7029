"""The trained parameters and the optimizer's state in files: torch's distributed checkpoints.

Each process writes the shards that it has. Another number of processes can read them, one included. The optimizer's
settings are not in them: the Trainer makes them anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

METADATA = ".metadata"  # written last, by the first process
WEIGHT, OPTIMIZER = "weight", "optimizer"  # first words of the names in the files


def save(folder: Path, model: nn.Module, optimizer: Any, *, shared: bool) -> None:
    """Write a checkpoint. If it is `shared`, every process calls this.

    Raises OSError or RuntimeError if a file cannot be written.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for name, parameter in _trained(model).items():
        tensors[f"{WEIGHT} {name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{OPTIMIZER} {name} {key}"] = value
    try:
        with _quiet():
            # Without fsync and streams: a damaged checkpoint is found by its digests, and is not used.
            files = checkpoint.FileSystemWriter(folder, sync_files=False, per_thread_copy_ahead=0)
            checkpoint.save(tensors, storage_writer=files, no_dist=not shared)
    except CheckpointException as error:
        raise _cause(error) from error


def load(folder: Path, model: nn.Module, optimizer: Any, *, shared: bool) -> list[str]:
    """Read a checkpoint in place.

    If it is of other parameters than those that the model trains, nothing is read, and their names are returned.
    """
    from torch.distributed import checkpoint

    files = checkpoint.FileSystemReader(folder)
    stored, trained = files.read_metadata().state_dict_metadata, _trained(model)
    unlike = {key.partition(" ")[2] for key in stored if key.startswith(WEIGHT)} ^ trained.keys()
    if unlike:
        return sorted(unlike)
    tensors: dict[str, Any] = {f"{WEIGHT} {name}": p.detach() for name, p in trained.items()}
    for full, shape in stored.items():
        if full.startswith(OPTIMIZER):
            _, name, _ = full.split(" ")
            tensors[full] = _empty(shape, trained[name])
    with _quiet():
        checkpoint.load(tensors, storage_reader=files, no_dist=not shared)
    for full, value in tensors.items():
        if full.startswith(OPTIMIZER):
            _, name, key = full.split(" ")
            optimizer.state[trained[name]][key] = value
    return []


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _empty(stored: Any, parameter: nn.Parameter) -> Any:
    """Return a place for a stored part of the optimizer's state: a tensor, sharded as the parameter, or None."""
    if not hasattr(stored, "size"):
        return None  # a number
    if stored.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=stored.properties.dtype, requires_grad=False)
    return torch.zeros(stored.size, dtype=stored.properties.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore torch's warning that a checkpoint of one process has one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _cause(error: Any) -> BaseException:
    """Return the first process's own error: of the operating system, if one is behind it."""
    causes = [failure[0] for failure in error.failures.values()]
    first = causes[0] if causes else RuntimeError(str(error))
    behind: BaseException | None = first
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__  # torch's writer raises its own error in its turn
    return behind or first
