"""A router as a contributor would add it: one file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from composer.model.initial import Normal
from composer.model.routers.base import Router


class DummyRouter(Router):
    """Scores experts by their standardised domain vectors, projected."""

    fixed: ClassVar[bool] = True

    def __init__(
        self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0, block: int = 0
    ) -> None:
        super().__init__(hidden_size, domain_dim, num_experts, null_experts, block)
        self.weight = nn.Parameter(torch.empty(hidden_size, domain_dim))

    @staticmethod
    def fresh(hidden_size: int, domain_dim: int, num_experts: int, block: int = 0) -> Mapping[str, Normal]:
        return {"weight": Normal((hidden_size, domain_dim), std=1 / math.sqrt(domain_dim))}

    def gate_for(self, domains: torch.Tensor) -> torch.Tensor:
        return domains.to(self.weight) @ self.weight.T
