"""A fixed random gate: the lower bound that every router must beat (after Hash Layers, arXiv 2106.04426).

Hash Layers assign each vocabulary token to a random expert. A block does not see token ids, so here the hash is a
random projection of the block's input. It does not depend on the domains, and it is never trained.
Shape suffixes: N routed experts, H model width.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from composer.model.initial import fresh_random
from composer.model.routers.base import Router


class RandomRouter(Router):
    """Random router, which scores experts by random directions. Appending an expert draws one more direction."""

    weight: torch.Tensor
    fresh = staticmethod(fresh_random)
    fixed: ClassVar[bool] = True

    def __init__(
        self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0, block: int = 0
    ) -> None:
        super().__init__(hidden_size, domain_dim, num_experts, null_experts, block)
        self.register_buffer("weight", torch.empty(num_experts, hidden_size))

    def gate_for(self, domains: torch.Tensor) -> torch.Tensor:
        return self.weight

    def append(self, domain: torch.Tensor, generator: torch.Generator) -> None:
        super().append(domain, generator)
        first = self.fresh(self.hidden_size, self.domain_dim, 1)["weight"]
        row_1H = torch.randn(first.shape, generator=generator) * first.std
        self.weight = torch.cat([self.weight, row_1H.to(self.weight)])
