"""Sharding of a model that several processes train: torch's fully sharded data parallelism (FSDP2).

Each process has a share of every trained parameter, of its gradient and of the optimizer's state. A block's parameters
are gathered when it runs. Frozen parameters are sharded, too, on GPUs. On the CPU they are mapped from files, of which
the system keeps one copy for all processes of a machine, so there is nothing to save.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from composer import resources
from composer.processes import Team


def shard(model: Any, *, frozen: bool | None = None) -> None:
    """Shard the parameters among all processes. `frozen`: those that do not train, too; by default, on a GPU."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = resources.device().type
    if frozen is None:
        frozen = device != "cpu"
    mapped = set() if frozen else {p for p in model.parameters() if not p.requires_grad}
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for block in model.blocks():
        block.register_forward_hook(_touch)  # before the hook of FSDP, which frees the parameters
        fully_shard(block, mesh=mesh, ignored_params=mapped)
    fully_shard(model, mesh=mesh, ignored_params=mapped)


class Used:
    """The modules with trained parameters that some process ran since the last step.

    An optimizer passes over a parameter without a gradient, such as those of an expert that no token chose. In a team
    every parameter has one (`_touch`), so here the gradients of what no process ran are removed again.
    """

    def __init__(self, model: nn.Module, team: Team) -> None:
        self.team = team
        self.owners = [
            module
            for name, module in model.named_modules()
            if ".router" not in name  # they always run
            and any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        ]
        self.flags = torch.zeros(len(self.owners), device=resources.device())
        for place, module in enumerate(self.owners):
            module.register_forward_hook(partial(self._note, place))

    def _note(self, place: int, *_: Any) -> None:
        self.flags[place] = 1

    def clear_unused(self) -> None:
        """Remove the gradients of what no process ran, and begin a new step."""
        ran = self.team.total(self.flags).tolist()
        for module, count in zip(self.owners, ran, strict=True):
            if not count:
                for parameter in module.parameters(recurse=False):
                    parameter.grad = None
        self.flags.zero_()


def gathered(model: nn.Module, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the names and the whole values of these parameters, in the main memory.

    Every process must read the iterator to its end.
    """
    from torch.distributed.tensor import DTensor

    for name, parameter in model.named_parameters():
        if name in names:
            value = parameter.detach()
            yield name, (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def _touch(block: nn.Module, args: Any, output: Any) -> Any:
    """Give every trained parameter of a block a gradient: zero, for an expert that no token of this process chose.

    The processes sum their gradients, so each must have all of them.
    """
    trained = [parameter for parameter in block.parameters() if parameter.requires_grad]
    if not trained or not torch.is_grad_enabled():
        return output
    nothing = 0 * torch.stack([parameter.sum() for parameter in trained]).sum()
    if isinstance(output, tuple):
        return (output[0] + nothing, *output[1:])
    return output + nothing
