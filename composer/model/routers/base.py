"""The protocol of a router.

Shape suffixes: T tokens, H model width, M domain-embedding width, N routed experts, P = N and the null experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.initial import Normal


class Router(nn.Module):
    """Scores the N routed experts of one block. Every router holds `domains`, the standardised vectors [N, M].

    A null expert (selection.py) scores as the average expert does; `null` [P − N, H] is what it has learned beyond
    that. So it needs no warm start, and no reset when an expert is appended.
    """

    domains: torch.Tensor
    keeps_experts: ClassVar[bool] = True  # whether experts stay as they are when one is appended
    fixed: ClassVar[bool] = False  # whether neither a warm start nor training changes it
    needs_training: ClassVar[bool] = False  # whether a warm start leaves something to learn by gradients

    def __init__(self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0) -> None:
        super().__init__()
        self.hidden_size, self.domain_dim, self.num_experts = hidden_size, domain_dim, num_experts
        self.register_buffer("domains", torch.zeros(num_experts, domain_dim))
        self.state: torch.Tensor | None = None  # what the router above hears of the last forward pass
        self.null = nn.Parameter(torch.zeros(null_experts, hidden_size)) if null_experts else None

    @staticmethod
    def fresh(hidden_size: int, domain_dim: int, num_experts: int) -> Mapping[str, Normal]:
        """The initial distribution of each parameter, and of each buffer that is drawn."""
        raise NotImplementedError

    def gate_for(self, domains: torch.Tensor) -> torch.Tensor:
        """Expert embeddings [N, H] of experts with the given standardised domain vectors [N, M]."""
        raise NotImplementedError

    def gate(self) -> torch.Tensor:
        """The routed experts' embeddings [N, H] as they are now."""
        return self.gate_for(self.domains)

    def rows(self) -> torch.Tensor:
        """The linear gate [P, H] to which the router collapses where its scores are linear in x."""
        gate_NH = self.gate()
        if self.null is None:
            return gate_NH
        return torch.cat([gate_NH, gate_NH.mean(dim=0) + self.null.to(gate_NH)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """MLP inputs [T, H] to routing logits [T, P]."""
        return F.linear(hidden_states, self.rows().to(hidden_states.dtype))

    def follow(self, below: Router) -> None:
        """Hear which router stands one block below."""

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw fresh weights."""
        fresh = self.fresh(self.hidden_size, self.domain_dim, self.num_experts)
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, first in fresh.items():
            nn.init.normal_(tensors[name], first.mean, first.std, generator=generator)

    def solve(self, domains: torch.Tensor, gates: torch.Tensor, weights: torch.Tensor) -> None:
        """Set the parameters so that `gate_for(domains)` comes near to gates [D, H], each with its weight [D]."""
        raise NotImplementedError

    def correct(
        self, domains: torch.Tensor, gates: torch.Tensor, experts: Sequence[int] | None = None
    ) -> None:
        """Change as little as possible so that `gate_for(domains)` is gates [K, H], exactly.

        `experts` says which experts these are; by default, all of them in order.
        """
        raise NotImplementedError

    def append(self, domain: torch.Tensor, generator: torch.Generator) -> None:
        """Make room for one more expert with the standardised domain vector [M]."""
        self.domains = torch.cat([self.domains, domain[None].to(self.domains)])
        self.num_experts += 1
