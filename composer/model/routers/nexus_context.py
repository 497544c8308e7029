"""The Nexus router with context: P_r also gives each expert's weights for running means over the text before a token.

    e_i = [e_x; e_c] = P_r(d_i)          as in Nexus, with h + F outputs
    z_i = x · e_x + c · e_c              c: the F features of composer/model/prefix.py

`directions` [N, H] are the whitened directions V_l of this block. The warm start solves them. Until then they are
zero, and the router is a Nexus router.

Appending an expert appends its direction. The old experts' weights for its means are zero, so their scores do not
change.

Shape suffixes: T tokens, N routed experts, P router columns, M domain-embedding width, H model width, F features.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.initial import feature_count, fresh_nexus_context
from composer.model.routers.nexus import NexusRouter


class NexusContextRouter(NexusRouter):
    """The Nexus router whose scores also depend on running means over the prefix."""

    directions: torch.Tensor
    fresh = staticmethod(fresh_nexus_context)
    reads_context: ClassVar[bool] = True

    def __init__(
        self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0, block: int = 0
    ) -> None:
        super().__init__(hidden_size, domain_dim, num_experts, null_experts, block)
        self.readout = nn.Parameter(torch.empty(feature_count(num_experts, block), hidden_size))
        self.register_buffer("directions", torch.zeros(num_experts, hidden_size))

    def gate_tensors(self) -> tuple[torch.Tensor, ...]:
        return (*super().gate_tensors(), self.readout)

    def projection(self) -> torch.Tensor:
        """[H + F, H]: W2 with the rows for the features below it."""
        return torch.cat([self.w2, self.readout])

    def replace_projection(self, value: torch.Tensor) -> None:
        super().replace_projection(value[: self.hidden_size])
        rows = value[self.hidden_size :].to(self.readout).contiguous()
        self.readout = nn.Parameter(rows, requires_grad=self.readout.requires_grad)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.context is None:
            raise RuntimeError(
                "a router with context was called outside the mix; call the NexusForCausalLM, which computes it"
            )
        x_PH, context_PF = self.rows().split([self.hidden_size, len(self.readout)], dim=1)
        scores_TP = F.linear(hidden_states, x_PH.to(hidden_states.dtype)).float()
        return scores_TP + F.linear(self.context, context_PF.to(self.context))

    def append(self, domain: torch.Tensor, generator: torch.Generator) -> None:
        super().append(domain, generator)
        width = self.directions.shape[1]
        self.directions = torch.cat([self.directions, self.directions.new_zeros(1, width)])
        added = feature_count(self.num_experts, self.block) - len(self.readout)
        self.readout = nn.Parameter(torch.cat([self.readout.detach(), self.readout.new_zeros(added, width)]))
