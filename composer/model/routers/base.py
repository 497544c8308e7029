"""The protocol of a router.

Shape suffixes: T tokens, H model width, M domain-embedding width, N routed experts, P router columns (N plus the
null experts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.initial import Normal


class Router(nn.Module):
    """Router of one block, which scores its N routed experts.

    Every router stores `domains`, the standardised domain vectors [N, M].

    The row of a null expert (selection.py) is the average expert's row plus a learned offset, `null` [P − N, H].
    So null experts need no warm start, and no reset when an expert is appended.
    """

    domains: torch.Tensor
    keeps_experts: ClassVar[bool] = True  # whether appending an expert leaves the other embeddings unchanged
    fixed: ClassVar[bool] = False  # whether warm start and training leave the router unchanged
    reads_context: ClassVar[bool] = False  # whether the scores depend on the text before a token (prefix.py)

    def __init__(
        self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0, block: int = 0
    ) -> None:
        super().__init__()
        self.hidden_size, self.domain_dim, self.num_experts = hidden_size, domain_dim, num_experts
        self.block = block  # number of the decoder block
        self.register_buffer("domains", torch.zeros(num_experts, domain_dim))
        self.state: torch.Tensor | None = (
            None  # recurrent state of the last forward pass, read by the next block
        )
        self.context: torch.Tensor | None = None  # [T, F]: features of the tokens, besides x
        self.null = nn.Parameter(torch.zeros(null_experts, hidden_size)) if null_experts else None

    @staticmethod
    def fresh(hidden_size: int, domain_dim: int, num_experts: int, block: int) -> Mapping[str, Normal]:
        """Return the initial distribution of each parameter, and of each randomly initialised buffer."""
        raise NotImplementedError

    def gate_for(self, domains: torch.Tensor) -> torch.Tensor:
        """Compute expert embeddings [N, H] from standardised domain vectors [N, M]."""
        raise NotImplementedError

    def gate(self) -> torch.Tensor:
        """Return the current embeddings [N, H] of the routed experts."""
        return self.gate_for(self.domains)

    def rows(self) -> torch.Tensor:
        """Return the linear gate [P, H]: the whole router, if its scores are linear in x (and the context)."""
        gate_NH = self.gate()
        if self.null is None:
            return gate_NH
        context = gate_NH.shape[1] - self.hidden_size
        return torch.cat([gate_NH, gate_NH.mean(dim=0) + F.pad(self.null.to(gate_NH), (0, context))])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute routing logits [T, P] from MLP inputs [T, H]."""
        return F.linear(hidden_states, self.rows().to(hidden_states.dtype))

    def follow(self, below: Router) -> None:
        """Set the router of the block below; a router without recurrent state ignores it."""

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw new weights from the initial distributions."""
        fresh = self.fresh(self.hidden_size, self.domain_dim, self.num_experts, self.block)
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, first in fresh.items():
            nn.init.normal_(tensors[name], first.mean, first.std, generator=generator)

    def solve(self, domains: torch.Tensor, gates: torch.Tensor, weights: torch.Tensor) -> None:
        """Set the parameters so that `gate_for(domains)` approximates gates [D, H], weighted by weights [D]."""
        raise NotImplementedError

    def correct(
        self, domains: torch.Tensor, gates: torch.Tensor, experts: Sequence[int] | None = None
    ) -> None:
        """Make `gate_for(domains)` equal to gates [K, H] exactly, with the smallest change of the parameters.

        `experts` are the indices of the given experts; by default, all experts in order.
        """
        raise NotImplementedError

    def append(self, domain: torch.Tensor, generator: torch.Generator) -> None:
        """Add one expert with the given standardised domain vector [M]."""
        self.domains = torch.cat([self.domains, domain[None].to(self.domains)])
        self.num_experts += 1
