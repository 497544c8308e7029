"""The Nexus router (arXiv 2408.15901, equations 2 and 3): expert embeddings are projected domain embeddings.

    e_i = P_r(d_i) = W2 · SwiGLU(W1 · d_i)        W1 ∈ R^{2h×m}, SwiGLU: R^{2h} → R^h, W2 ∈ R^{h×h}
    p   = softmax(x · [e_1 … e_N])

All experts of a block share P_r, so appending an expert resets nothing.
Shape suffixes: N routed experts, M domain-embedding width, H model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.initial import fresh_nexus
from composer.model.routers.base import Router

RIDGE = 1e-2


class NexusRouter(Router):
    """Nexus router, which projects domain vectors to expert embeddings; at inference these are cached."""

    fresh = staticmethod(fresh_nexus)

    def __init__(
        self, hidden_size: int, domain_dim: int, num_experts: int, null_experts: int = 0, block: int = 0
    ) -> None:
        super().__init__(hidden_size, domain_dim, num_experts, null_experts, block)
        self.w1 = nn.Parameter(torch.empty(2 * hidden_size, domain_dim))
        self.w2 = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self._cached: tuple[tuple[torch.Tensor, ...], tuple[int | None, ...], torch.Tensor] | None = None

    def gate_for(self, domains: torch.Tensor) -> torch.Tensor:
        """Apply P_r: standardised domain vectors [N, M] to expert embeddings [N, H]."""
        return F.linear(self._hidden(domains), self.projection())

    def gate_tensors(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors of which `gate` is a function."""
        return self.w1, self.w2, self.domains

    def projection(self) -> torch.Tensor:
        """Return the last layer of P_r, W2 [H, H]."""
        return self.w2

    def _hidden(self, domains: torch.Tensor) -> torch.Tensor:
        """Compute the hidden layer SwiGLU(W1 · d) [N, H]."""
        gate, value = F.linear(domains.to(self.w1), self.w1).chunk(2, dim=-1)
        return F.silu(gate) * value

    def solve(self, domains: torch.Tensor, gates: torch.Tensor, weights: torch.Tensor) -> None:
        # On the CPU, in float64, which not every GPU has.
        # Ridge regression: W2 = Gᵀ Ω A (Aᵀ Ω A + λI)⁻¹, with the hidden layer A [D, H], targets G, weights Ω.
        hidden = self._hidden(domains).detach().cpu().double()
        weighted = hidden * weights.to(hidden)[:, None]
        normal = weighted.T @ hidden
        eye = torch.eye(len(normal), dtype=normal.dtype)
        factor = torch.linalg.cholesky(normal + RIDGE * normal.diagonal().mean() * eye)
        solved = torch.cholesky_solve(weighted.T @ gates.to(hidden), factor)
        self.replace_projection(solved.T)

    def correct(
        self, domains: torch.Tensor, gates: torch.Tensor, experts: Sequence[int] | None = None
    ) -> None:
        # The smallest exact change of W2 is (A⁺ (G − A W2ᵀ))ᵀ, with the pseudo-inverse A⁺ of the hidden layer A [K, H].
        hidden = self._hidden(domains).detach().cpu().double()
        projection = self.projection().detach().cpu().double()
        missing = gates.to(hidden) - hidden @ projection.T
        self.replace_projection(projection + (torch.linalg.pinv(hidden, rtol=1e-6) @ missing).T)

    def replace_projection(self, value: torch.Tensor) -> None:
        """Set the last layer of P_r as a new parameter.

        It is not written in place: the old one may be memory-mapped from a blob, and `gate` must see the change.
        """
        self.w2 = nn.Parameter(value.to(self.w2).contiguous(), requires_grad=self.w2.requires_grad)

    def gate(self) -> torch.Tensor:
        if torch.is_grad_enabled():
            return self.gate_for(self.domains)
        # Without gradients, the embeddings change only if a tensor is replaced or written in place.
        tensors = self.gate_tensors()
        versions = tuple(None if t.is_inference() else t._version for t in tensors)
        if (
            self._cached is None
            or any(now is not then for now, then in zip(tensors, self._cached[0], strict=True))
            or self._cached[1] != versions
        ):
            self._cached = (tensors, versions, self.gate_for(self.domains))
        return self._cached[2]
