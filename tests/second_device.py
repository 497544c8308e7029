"""A second device for tests: its tensors compute on the CPU, but an operation on tensors of two devices fails.

It is as strict as CUDA about devices, and has no float64, like MPS. Its numbers equal the CPU's exactly. The device is
registered in the whole process, so use it in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "second"
# Operations that read tensors of both devices: copies, and indexing by tensors in the main memory.
TRANSFERS = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")


class There(torch.Tensor):
    """A tensor of the second device. `here` is its content."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        if here.dtype == torch.float64:
            raise RuntimeError("the second device has no float64")
        made: There = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
        )
        made.here = here
        return made

    @property
    def data(self) -> There:  # type: ignore[override]
        return There(self.here.detach())

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, There) or (value.shape, value.dtype) != (self.shape, self.dtype):
            raise RuntimeError(
                "the data of a tensor of the second device is replaced by another kind of tensor"
            )
        self.here = value.here

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("a tensor of the second device has no NumPy array: use .cpu() first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return torch.Tensor.clone, (self.here,)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Makes tensors on the second device where `device=` names it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Makes tensors of Python numbers in the main memory first, because they do not pass through other modes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if device is None else made.to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    device = kwargs.get("device")
    name = str(func.name())
    if name == "aten::_has_compatible_shallow_copy_type":
        return False
    if there and not name.startswith((*TRANSFERS, *INDEXING)):
        # A number of the CPU may be an operand on every device.
        strangers = [each for each in tensors if not isinstance(each, There) and each.dim()]
        if strangers:
            shapes = [tuple(each.shape) for each in strangers]
            raise RuntimeError(
                f"{name}: expected all tensors on the second device, but those of {shapes} are here"
            )
    if name.startswith(INDEXING) and there and not isinstance(args[0], There):
        raise RuntimeError(f"{name}: a tensor of the main memory is indexed by one of the second device")
    goes_there = bool(there) if device is None else torch.device(device).type == NAME
    if name.startswith("aten::copy_"):
        goes_there = isinstance(args[0], There)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(each.here): each for each in there}
    found = func(
        *tree_map(lambda x: x.here if isinstance(x, There) else x, args),
        **tree_map(lambda x: x.here if isinstance(x, There) else x, kwargs),
    )

    def wrapped(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not goes_there:
            return x
        return known[id(x)] if id(x) in known else There(x)

    return args[0] if name.startswith("aten::copy_") else tree_map(wrapped, found)


def register() -> None:
    """Register the device in this process. Call it once, before the first backward pass."""
    from torch.utils import backend_registration

    class Backend(backend_registration._DummyBackendModule):
        def get_rng_state(self, device: Any = None) -> torch.Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
            pass

    backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Let nexusmix and the trainer use the device in the `with` block."""
    from composer import resources

    device = torch.device(NAME, 0)
    chosen, entered, left = resources.device, torch.inference_mode.__enter__, torch.inference_mode.__exit__
    resources.device = lambda: device
    # Inference mode passes other operations to the modes than training does.
    torch.inference_mode.__enter__ = lambda self: (
        setattr(self, "instead", torch.no_grad()) or self.instead.__enter__()
    )
    torch.inference_mode.__exit__ = lambda self, *error: self.instead.__exit__(*error)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)  # read by the trainer
    try:
        with _Literals(), _Factories():
            yield device
    finally:
        resources.device, torch.inference_mode.__enter__, torch.inference_mode.__exit__ = (
            chosen,
            entered,
            left,
        )
        del os.environ["ACCELERATE_TORCH_DEVICE"]
