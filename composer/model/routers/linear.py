"""The linear router of BTX (arXiv 2403.07816), the baseline of the Nexus paper: one learned row per expert.

Shape suffixes: N routed experts, H model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from composer.model.initial import fresh_linear
from composer.model.routers.base import Router


class LinearRouter(Router):
    """Linear router. It does not use the domain vectors, so it must be reset when an expert is appended."""

    fresh = staticmethod(fresh_linear)
    keeps_experts: ClassVar[bool] = False

    def __init__(
        self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0, block: int = 0
    ) -> None:
        super().__init__(hidden_size, domain_dim, num_experts, null_experts, block)
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def gate_for(self, domains: torch.Tensor) -> torch.Tensor:
        return self.weight

    def solve(self, domains: torch.Tensor, gates: torch.Tensor, weights: torch.Tensor) -> None:
        self.weight.data = gates.mean(dim=0).to(self.weight).repeat(self.num_experts, 1)

    def correct(
        self, domains: torch.Tensor, gates: torch.Tensor, experts: Sequence[int] | None = None
    ) -> None:
        weight = self.weight.data.clone()
        weight[list(range(len(gates)) if experts is None else experts)] = gates.to(weight)
        self.weight.data = weight

    def append(self, domain: torch.Tensor, generator: torch.Generator) -> None:
        super().append(domain, generator)
        self.weight = nn.Parameter(torch.empty(self.num_experts, self.hidden_size))
        self.reset_parameters(generator)
