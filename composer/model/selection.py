"""Selection of each token's experts, and their weights, from the router's logits.

    top-k            the K most probable experts; Nexus uses one
    top-p            the fewest experts whose probabilities sum to p, the most probable first (arXiv 2403.07652)
    null experts     M extra router columns that compute nothing; each one that a token chooses replaces one expert
                     (AdaMoE, arXiv 2406.13233)
    dense to sparse  for the first steps of a fine-tune: every expert with a probability above TRACE in a noisy
                     softmax; a lower temperature leaves fewer experts (EvoMoE, arXiv 2112.14397)

A weight is the probability itself, not renormalised over the chosen experts (arXiv 2408.15901).
This file needs torch only, so an export can include it.

Shape suffixes: T tokens, N routed experts, P = N + M router columns, K slots per token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

TRACE = 1e-3


class Routing(NamedTuple):
    """Routing of T tokens in one block: probabilities [T, P], chosen columns [T, K] and their weights [T, K].

    A chosen index of N or more is a null expert, and the index P marks an empty slot. Both have weight 0.
    `logits` [T, P] are those of the router, or None if it was not called.
    """

    probabilities: torch.Tensor
    chosen: torch.Tensor
    weights: torch.Tensor
    logits: torch.Tensor | None = None

    def counts(self) -> torch.Tensor:
        """Count how often each column was chosen [P]."""
        columns = self.probabilities.shape[-1]
        return torch.bincount(self.chosen.flatten(), minlength=columns + 1)[:columns]


def top_k(logits_TP: torch.Tensor, experts: int, k: int) -> Routing:
    """Choose the k most probable columns."""
    probs_TP = logits_TP.softmax(dim=-1)
    weights_TK, chosen_TK = probs_TP.topk(min(k, probs_TP.shape[-1]), dim=-1)
    return _without_nulls(Routing(probs_TP, chosen_TK, weights_TK, logits_TP), experts)


def top_p(logits_TP: torch.Tensor, experts: int, threshold: float) -> Routing:
    """Choose the fewest columns whose probabilities sum to at least `threshold`, the most probable first."""
    probs_TP = logits_TP.softmax(dim=-1)
    sorted_TP, order_TP = probs_TP.sort(dim=-1, descending=True)
    before_TP = sorted_TP.cumsum(dim=-1) - sorted_TP
    return _kept(probs_TP, sorted_TP, order_TP, before_TP < threshold, logits_TP, experts)


def dense_to_sparse(logits_TP: torch.Tensor, experts: int, temperature: float) -> Routing:
    """Choose every column with a probability above TRACE in softmax((logits + Gumbel noise) / temperature)."""
    # Drawn on the CPU, so that it is the same on every device.
    noise_TP = -torch.empty(logits_TP.shape).exponential_().log().to(logits_TP.device)
    probs_TP = ((logits_TP + noise_TP) / temperature).softmax(dim=-1)
    order_TP = torch.arange(probs_TP.shape[-1], device=probs_TP.device).expand_as(probs_TP)
    return _kept(probs_TP, probs_TP, order_TP, probs_TP > TRACE, logits_TP, experts)


def _kept(
    probs_TP: torch.Tensor,
    weights_TP: torch.Tensor,
    order_TP: torch.Tensor,
    kept_TP: torch.Tensor,
    logits_TP: torch.Tensor,
    experts: int,
) -> Routing:
    """Build the routing with columns in the order `order_TP`; a column that is masked or not kept is an empty slot."""
    empty_TP = ~(kept_TP & (weights_TP > 0))
    chosen_TP = order_TP.masked_fill(empty_TP, probs_TP.shape[-1])
    return _without_nulls(
        Routing(probs_TP, chosen_TP, weights_TP.masked_fill(empty_TP, 0), logits_TP), experts
    )


def _without_nulls(routing: Routing, experts: int) -> Routing:
    """Set the weights of null experts to 0, which leaves their share to the shared expert."""
    if routing.probabilities.shape[-1] == experts:
        return routing
    return routing._replace(weights=routing.weights.masked_fill(routing.chosen >= experts, 0))
