"""Sources of checkpoints: a local folder, or `hf:owner/name[@revision]` of the Hugging Face Hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.blobs import read_files
from registry.catalog import queries
from registry.checkpoints.canonical import Progress
from registry.checkpoints.preflight import (
    Checkpoint,
    check_expert,
    check_seed,
    is_dequantized,
    names_adapter,
)
from registry.errors import StorageError
from registry.home import Registry
from registry.intake import hub
from registry.work_folders import occupied, work_folder


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, and the recorded provenance."""

    folder: Path
    provenance: dict[str, Any] = field(default_factory=dict)


def pinned(source: str) -> str:
    """Return the source in a form with a fixed meaning: the commit of a revision, or an absolute path.

    Raises the same errors as `hub.look_up`.
    """
    return str(hub.look_up(source)) if hub.is_hub(source) else str(Path(source).absolute())


@contextmanager
def opened(
    registry: Registry, source: str, *, seed: str | None, progress: Progress | None = None
) -> Iterator[Source]:
    """Open the checkpoint as a folder; a hub checkpoint's headers are checked before its weights are downloaded.

    Files that were complete before an interruption are kept for the next call. They are removed when the block ends
    without an exception, except from huggingface_hub's cache. Raises the errors of `hub` and `preflight`, and
    StorageError if the disk is too full.
    """
    if not hub.is_hub(source):
        yield Source(Path(source))
        return
    snapshot = hub.look_up(source)
    check_remote(registry, snapshot, seed)
    name = f"hub-{snapshot.repository.replace('/', '--')}-{snapshot.commit}"

    def on_wait() -> None:
        if progress is not None:
            progress("waiting for another download of the same revision", 0, 1)

    with occupied(registry, work_folder(registry, name), keep=True, on_wait=on_wait) as work:
        folder = work / "files"
        folder.mkdir(exist_ok=True)
        _require_room(folder, snapshot)
        hub.download(snapshot, folder, progress)
        yield Source(folder, {"source": str(snapshot)})


@contextmanager
def headers(snapshot: hub.Snapshot) -> Iterator[Path]:
    """Open a folder that preflight can check: complete small files, and weight files with headers only."""
    with tempfile.TemporaryDirectory(prefix="nexusmix-hub-") as temporary:
        folder = Path(temporary, snapshot.repository.replace("/", "--"))
        folder.mkdir()
        hub.download_headers(snapshot, folder)
        yield folder


def check_remote(registry: Registry, snapshot: hub.Snapshot, seed: str | None) -> Checkpoint | None:
    """Run preflight on a snapshot, as an expert of `seed` or (if None) as a seed.

    Returns None for an adapter and for weights that are dequantized, which are checked later. Raises the errors of
    `hub` and `preflight`.
    """
    is_adapter = names_adapter((file.name for file in snapshot.files), str(snapshot))
    if is_adapter and seed is not None:
        return None
    with headers(snapshot) as folder:
        if is_dequantized(folder):
            return None
        if seed is None:
            return check_seed(folder)
        base = queries.get_seed(registry, seed)
        return check_expert(base, read_files(registry.blobs, base.files), folder)


def _require_room(folder: Path, snapshot: hub.Snapshot) -> None:
    """Require free space for twice the model: the download and the blobs. Raises StorageError."""
    there = sum(path.stat().st_size for path in folder.iterdir())
    needed = 2 * sum(file.size for file in snapshot.files) - there
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(f"{snapshot} needs {needed:,} bytes on the disk of {folder}, {free:,} are free")
