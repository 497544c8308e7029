"""Cache of results that follow from stored content alone: the frequencies of a sample's tokens, a model's score.

A key names everything that the result depends on, by digest, so an entry is never out of date. The cache is a folder in
the registry's home; deleting it loses nothing but time.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from registry.errors import StorageError
from registry.home import Registry

Arrays = Mapping[str, np.ndarray]


def derived(registry: Registry, kind: str, key: Sequence[str], compute: Callable[[], Arrays]) -> Arrays:
    """Return the stored arrays of this kind and key, or store and return `compute()`.

    Raises StorageError if they cannot be stored.
    """
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()
    path = registry.home / "cache" / kind / f"{name}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes())) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent, or cut by a crash or a full disk
        found = compute()
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **dict[str, Any](found))
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; free some disk space") from error
    return found


def derived_number(registry: Registry, kind: str, key: Sequence[str], compute: Callable[[], float]) -> float:
    """Return the stored number of this kind and key, as `derived` does."""
    (number,) = derived(registry, kind, key, lambda: {"number": np.array(compute())}).values()
    return float(number)
