"""Resources of this machine for a task: its memory, the device of the models, and the dtype in which it computes.

The choices are ambient, like a logger, so the layers between a command and a model need not pass them on.
"""

from __future__ import annotations

import os
import re
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import DeviceError, RecipeError

if TYPE_CHECKING:
    import torch

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The rest of the memory is for activations, logits and the tensors of the solvers.
SHARE_FOR_WEIGHTS = 0.5
SHARE_ON_DEVICE = 0.8  # the solvers' tensors are never there
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
VARIABLE, DEVICE_VARIABLE, DTYPE_VARIABLE = "NEXUSMIX_MEMORY", "NEXUSMIX_DEVICE", "NEXUSMIX_DTYPE"
PROCESSES_VARIABLE = "NEXUSMIX_NPROC"
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "tf32", "bfloat16", "float16")

# Bytes of weights that `keep` allowed and that still exist, by type of device, in this process.
_kept: dict[str, int] = {}
_limit: ContextVar[int | None] = ContextVar("memory limit", default=None)
_device: ContextVar[str | None] = ContextVar("device", default=None)
_dtype: ContextVar[str | None] = ContextVar("dtype", default=None)


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


def keep(owner: object, nbytes: int, device: torch.device | None = None) -> bool:
    """Return whether there is room to keep so many bytes of weights until `owner` is deleted; if so, count them.

    They are on a device, by default in the main memory.
    """
    kind = "cpu" if device is None else device.type
    kept = _kept.get(kind, 0)
    if device is None or kind == "cpu":
        room = SHARE_FOR_WEIGHTS * (limit() or kept + available()) / processes()
    else:
        room = SHARE_ON_DEVICE * (kept + available_on(device))
    if kept + nbytes > room:
        return False
    _kept[kind] = kept + nbytes
    weakref.finalize(owner, _release, kind, nbytes)
    return True


def _release(kind: str, nbytes: int) -> None:
    _kept[kind] -= nbytes


def available() -> int:
    """Return the available memory in bytes, of the machine or of the container if that has less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        return min(free, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def available_on(device: torch.device) -> int:
    """Return the available memory of a GPU in bytes."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return sys.maxsize


def processes() -> int:
    """Return how many processes of this machine share a composition: NEXUSMIX_NPROC, torchrun's number, else 1.

    Raises RecipeError.
    """
    given = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get(PROCESSES_VARIABLE) or "1"
    if not given.isdecimal() or not int(given):
        raise RecipeError(
            f"{PROCESSES_VARIABLE} is {given[:100]!r}; expected a number of processes, such as 2"
        )
    return int(given)


def as_environment() -> dict[str, str]:
    """Return the choices as variables of the environment, for a process that this one starts."""
    chosen = {
        VARIABLE: str(limit() or ""),
        DEVICE_VARIABLE: _name("device", _device.get(), DEVICE_VARIABLE),
        DTYPE_VARIABLE: _name("dtype", _dtype.get(), DTYPE_VARIABLE),
    }
    return {name: value for name, value in chosen.items() if value}


def parse_memory(text: str) -> int:
    """Read an amount of memory such as "6GiB", "6G" or "500M", in binary units. Raises RecipeError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise RecipeError(
            f"cannot read {text[:200]!r} as an amount of memory: write for example 6GiB or 500MiB"
        )
    return int(float(found[1]) * UNITS[found[2].upper()])


@contextmanager
def computing(device: str = "auto", dtype: str = "auto") -> Iterator[None]:
    """Choose the device and the dtype of the models in the `with` block, each a name in DEVICES or DTYPES.

    Elsewhere the environment variables NEXUSMIX_DEVICE and NEXUSMIX_DTYPE choose them. Raises DeviceError.
    """
    tokens = _device.set(check("device", device)), _dtype.set(check("dtype", dtype))
    try:
        yield
    finally:
        _device.reset(tokens[0])
        _dtype.reset(tokens[1])


def check(kind: str, name: str) -> str:
    """Return the name of a device or a dtype. Raises DeviceError if it is unknown."""
    names = DEVICES if kind == "device" else DTYPES
    if name not in names:
        remedy = "; choose a card with CUDA_VISIBLE_DEVICES" if name.startswith("cuda:") else ""
        raise DeviceError(f"the {kind} is {name[:100]!r}; expected one of {', '.join(names)}{remedy}")
    return name


def _name(kind: str, chosen: str | None, variable: str) -> str:
    return chosen or check(kind, os.environ.get(variable) or "auto")


def device() -> torch.device:
    """Return the device of the models: the chosen one, else CUDA, else MPS (a GPU by Apple), else the CPU.

    Raises DeviceError if the chosen one is not there.
    """
    import torch

    name = _name("device", _device.get(), DEVICE_VARIABLE)
    missing = {kind: _missing(kind) for kind in DEVICES[2:] if name in (kind, "auto")}
    if missing.get(name):
        raise DeviceError(f"{name} was asked for, but {missing[name]}, or use --device cpu")
    if name == "auto":
        name = next((kind for kind, problem in missing.items() if not problem), "cpu")
    return torch.device(name)


def _missing(kind: str) -> str:
    """Return why a kind of GPU cannot be used, with the remedy; empty if it can."""
    import torch

    if kind == "cuda":
        if torch.cuda.is_available():
            return ""
        if not torch.backends.cuda.is_built():
            return (
                f"this torch ({torch.__version__}) is built without CUDA: install another build from "
                "https://pytorch.org/get-started"
            )
        return "torch finds no card: check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
    if torch.backends.mps.is_available():
        return ""
    if not torch.backends.mps.is_built():
        return f"this torch ({torch.__version__}) is built without MPS, which is only on Macs: use another device"
    return "this Mac has no GPU for MPS or a macOS before 12.3: update macOS"


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the dtype in which to compute with weights of a stored dtype: the chosen one, else the fastest.

    A processor without instructions for half precision emulates it: SmolLM2-135M was five times slower in bfloat16
    than in float32. So it computes in float32, which is also more exact.
    """
    import torch

    name = _name("dtype", _dtype.get(), DTYPE_VARIABLE)
    if name != "auto":
        found: torch.dtype = getattr(torch, "float32" if name == "tf32" else name)
        return found
    kind = device().type
    if stored.itemsize >= torch.float32.itemsize:
        return torch.float32 if kind == "mps" else stored  # MPS has no float64
    return stored if _is_native(stored, kind) else torch.float32


def _is_native(dtype: torch.dtype, kind: str) -> bool:
    """Return whether a device has instructions for this half precision."""
    import torch

    if kind == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "mps":
        return dtype == torch.float16 or torch.backends.mps.is_macos_or_newer(14, 0)
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return dtype == torch.bfloat16 and native


def training_dtype() -> torch.dtype | None:
    """Return the half precision of the products in training; None: float32. Weights and moments are float32.

    Raises DeviceError for float16 without CUDA, where its gradients cannot be scaled.
    """
    import torch

    name, kind = _name("dtype", _dtype.get(), DTYPE_VARIABLE), device().type
    if name == "auto":
        return torch.bfloat16 if kind == "cuda" and _is_native(torch.bfloat16, kind) else None
    if name == "float16" and kind != "cuda":
        raise DeviceError(f"training in float16 needs cuda, and the device is {kind}: use --dtype bfloat16")
    return getattr(torch, name) if name in ("bfloat16", "float16") else None


def set_precision() -> None:
    """Let the GPU round the inputs of float32 products to TF32 if that dtype is chosen, and only then."""
    import torch

    if device().type == "cuda":
        chosen = _name("dtype", _dtype.get(), DTYPE_VARIABLE)
        torch.set_float32_matmul_precision("high" if chosen == "tf32" else "highest")
