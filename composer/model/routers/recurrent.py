"""A layer-wise recurrent router (RMoE, arXiv 2408.06793): a GRU state links a token's routing between blocks.

    r_l = GRU(U · x_l, r_{l−1})        r_0 = 0
    z_i = x_l · e_i + r_l · V d_i      e_i = P_r(d_i) as in Nexus

RMoE scores experts by r_l alone, with one row per expert, and shares one GRU between all blocks. Here the recurrent
score is added to the Nexus score, and V is zero at first. So a mix that is warm-started in closed form routes like a
Nexus mix until training changes V. Using V d_i instead of one row per expert lets an expert be appended without a
reset. Routers are stored per block, so each block has its own GRU.

Shape suffixes: T tokens, N routed experts, M domain-embedding width, H model width, R state width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.initial import STATE_WIDTH, fresh_recurrent
from composer.model.routers.base import Router
from composer.model.routers.nexus import NexusRouter


class RecurrentRouter(NexusRouter):
    """The Nexus router with a recurrent state that depends on the token's inputs in the blocks below."""

    fresh = staticmethod(fresh_recurrent)

    def __init__(
        self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0, block: int = 0
    ) -> None:
        super().__init__(hidden_size, domain_dim, num_experts, null_experts, block)
        self.down = nn.Parameter(torch.empty(STATE_WIDTH, hidden_size))  # U
        self.gru = nn.GRUCell(STATE_WIDTH, STATE_WIDTH)
        self.readout = nn.Parameter(torch.empty(STATE_WIDTH, domain_dim))  # V
        self._below: tuple[Router, ...] = ()  # a tuple, so that it is not registered as a submodule

    def follow(self, below: Router) -> None:
        self._below = (below,)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits_TP = super().forward(hidden_states)
        state_TR = self._below[0].state if self._below else None
        self.state = self.gru(F.linear(hidden_states.to(self.down.dtype), self.down), state_TR)
        added_TN = F.linear(self.state, self.domains.to(self.readout) @ self.readout.T)
        nulls = logits_TP.shape[-1] - added_TN.shape[-1]
        average_T1 = added_TN.mean(dim=-1, keepdim=True)
        return logits_TP.float() + torch.cat([added_TN, average_T1.expand(-1, nulls)], dim=-1)

    def solve(self, domains: torch.Tensor, gates: torch.Tensor, weights: torch.Tensor) -> None:
        super().solve(domains, gates, weights)
        # The gates were fitted without the recurrent score, so V is reset to zero.
        self.readout = nn.Parameter(torch.zeros_like(self.readout), self.readout.requires_grad)
