"""Which experts a token takes once the router has scored them, and with what weights.

    top-k            the K most probable; Nexus takes one
    top-p            as few as reach p together, the most probable first (arXiv 2403.07652)
    null experts     M columns beside the experts' that compute nothing: where one of them is among the chosen,
                     the token takes an expert less (AdaMoE, arXiv 2406.13233)
    dense to sparse  while a fine-tune begins: every expert that a noisy softmax gives more than a trace, the
                     fewer the lower its temperature (EvoMoE, arXiv 2112.14397)

A weight is the probability itself, not renormalised over the chosen ones (arXiv 2408.15901).
This file needs torch only, so that an export can carry it.

Shape suffixes: T tokens, N routed experts, P = N + M columns of the router, K places of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

TRACE = 1e-3


class Routing(NamedTuple):
    """What a block decided for T tokens: probabilities [T, P], the chosen columns and their weights [T, K].

    Columns from N on are null experts, and P fills a place that stays empty: both have weight 0. `logits` [T, P]
    are the router's own, where it was asked.
    """

    probabilities: torch.Tensor
    chosen: torch.Tensor
    weights: torch.Tensor
    logits: torch.Tensor | None = None

    def counts(self) -> torch.Tensor:
        """How many times each column was chosen [P]."""
        columns = self.probabilities.shape[-1]
        return torch.bincount(self.chosen.flatten(), minlength=columns + 1)[:columns]


def top_k(logits_TP: torch.Tensor, experts: int, k: int) -> Routing:
    """The k most probable columns."""
    probs_TP = logits_TP.softmax(dim=-1)
    weights_TK, chosen_TK = probs_TP.topk(min(k, probs_TP.shape[-1]), dim=-1)
    return _without_nulls(Routing(probs_TP, chosen_TK, weights_TK, logits_TP), experts)


def top_p(logits_TP: torch.Tensor, experts: int, threshold: float) -> Routing:
    """As few columns as have at least `threshold` of the probability together, the most probable first."""
    probs_TP = logits_TP.softmax(dim=-1)
    sorted_TP, order_TP = probs_TP.sort(dim=-1, descending=True)
    before_TP = sorted_TP.cumsum(dim=-1) - sorted_TP
    return _kept(probs_TP, sorted_TP, order_TP, before_TP < threshold, logits_TP, experts)


def dense_to_sparse(logits_TP: torch.Tensor, experts: int, temperature: float) -> Routing:
    """Every column that softmax((logits + Gumbel noise) / temperature) gives more than a trace."""
    noise_TP = -torch.empty_like(logits_TP).exponential_().log()
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
    """The columns `order` of which those that are kept, and not masked, stay."""
    empty_TP = ~(kept_TP & (weights_TP > 0))
    chosen_TP = order_TP.masked_fill(empty_TP, probs_TP.shape[-1])
    return _without_nulls(
        Routing(probs_TP, chosen_TP, weights_TP.masked_fill(empty_TP, 0), logits_TP), experts
    )


def _without_nulls(routing: Routing, experts: int) -> Routing:
    """The same with weight 0 for null experts, which leave their part to the shared expert."""
    if routing.probabilities.shape[-1] == experts:
        return routing
    return routing._replace(weights=routing.weights.masked_fill(routing.chosen >= experts, 0))
