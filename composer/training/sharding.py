"""Models that several processes train: replicated, or sharded by torch's fully sharded data parallelism (FSDP2).

Replicated, each process has all trained parameters, and the gradients are averaged once per step. That is done on the
CPU if the memory suffices, because gloo gathers and scatters several times slower than it reduces.

Sharded, each process has a share of every trained parameter, of its gradient and of the optimizer's state. A block's
parameters are gathered when it runs. Frozen parameters are sharded, too, on GPUs. On the CPU they are mapped from
files, of which the system keeps one copy for all processes of a machine, so there is nothing to save.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from composer import memory, resources
from composer.processes import Team

BUCKET = 2**22  # numbers of gradients that are averaged together


def is_replicated(weights: int, optimizer: str) -> bool:
    """Return whether each process gets all of so many trained weights: on the CPU, if they fit into the memory."""
    return resources.device().type == "cpu" and memory.fits_replicated(
        weights, optimizer, resources.processes()
    )


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
        owned = {id(p) for owner in self.owners for p in owner.parameters(recurse=False)}
        trained = [p for p in model.parameters() if p.requires_grad]
        self.others = [p for p in trained if id(p) not in owned]
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

    def average(self) -> None:
        """Average the gradients of a replicated model over the processes, and begin a new step.

        What no process ran keeps no gradient.
        """
        ran = self.team.total(self.flags).tolist()
        self.flags.zero_()
        parameters = [
            parameter
            for module, count in zip(self.owners, ran, strict=True)
            if count
            for parameter in module.parameters(recurse=False)
            if parameter.requires_grad
        ]
        for bucket in _buckets([*self.others, *parameters]):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = grads[0] if len(grads) == 1 else torch.cat([grad.flatten() for grad in grads])
            torch.distributed.all_reduce(flat.div_(self.team.size))
            if len(grads) > 1:
                pieces = flat.split([grad.numel() for grad in grads])
                for grad, piece in zip(grads, pieces, strict=True):
                    grad.copy_(piece.view_as(grad))


def _buckets(parameters: Collection[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield groups of parameters of at most BUCKET numbers, or one larger parameter."""
    group: list[nn.Parameter] = []
    for parameter in parameters:
        if group and sum(p.numel() for p in group) + parameter.numel() > BUCKET:
            yield group
            group = []
        group.append(parameter)
    if group:
        yield group


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
