"""Resources of this machine for a task: its memory, and the dtype in which its processor computes fast.

The limit is ambient, like a logger, so the layers between a command and a model need not pass it on.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import RecipeError

if TYPE_CHECKING:
    import torch

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The rest of the memory is for activations, logits and the tensors of the solvers.
SHARE_FOR_WEIGHTS = 0.5
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

_kept = 0  # bytes of weights that `keep` allowed and that still exist, in this process
_limit: ContextVar[int | None] = ContextVar("memory limit", default=None)
VARIABLE = "NEXUSMIX_MEMORY"


@contextmanager
def memory_limit(limit: int) -> Iterator[None]:
    """Limit the memory of the `with` block to so many bytes, not counting mapped files.

    Elsewhere the environment variable NEXUSMIX_MEMORY limits it, and without that the available memory does.
    """
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def limit() -> int | None:
    """Return the limit in bytes; None if there is none. Raises RecipeError for an unreadable NEXUSMIX_MEMORY."""
    given = os.environ.get(VARIABLE)
    return _limit.get() or (parse_memory(given) if given else None)


def keep(owner: object, nbytes: int) -> bool:
    """Return whether there is room to keep so many bytes of weights until `owner` is deleted; if so, count them."""
    global _kept
    if _kept + nbytes > SHARE_FOR_WEIGHTS * (limit() or _kept + available()):
        return False
    _kept += nbytes
    weakref.finalize(owner, _release, nbytes)
    return True


def _release(nbytes: int) -> None:
    global _kept
    _kept -= nbytes


def available() -> int:
    """Return the available memory in bytes, of the machine or of the container if that has less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        return min(free, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def parse_memory(text: str) -> int:
    """Read an amount of memory such as "6GiB", "6G" or "500M", in binary units. Raises RecipeError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise RecipeError(
            f"cannot read {text[:200]!r} as an amount of memory: write for example 6GiB or 500MiB"
        )
    return int(float(found[1]) * UNITS[found[2].upper()])


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the dtype in which to compute with weights of a stored dtype.

    A processor without instructions for half precision emulates it: SmolLM2-135M was five times slower in bfloat16
    than in float32. So it computes in float32, which is also more exact.
    """
    import torch

    if stored.itemsize >= torch.float32.itemsize:
        return stored
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return stored if native and stored == torch.bfloat16 else torch.float32
