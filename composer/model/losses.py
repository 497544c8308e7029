"""Auxiliary losses of the routers, added to the language-model loss.

    load balance   n · Σ_i f_i · P_i            (Switch, arXiv 2101.03961; 1 when balanced)
    z-loss         mean of (log Σ_i exp z_i)²   (ST-MoE, arXiv 2202.08906; keeps the logits z small)
    entropy        mean of −Σ_i p_i · log p_i   (arXiv 2403.07652; keeps top-p from choosing every expert)
    guidance       mean of −log p_own           (domain labels as in DEMix layers, arXiv 2108.05036, but as a loss:
                                                 inference needs no labels)

f_i is the share of tokens routed to expert i. P_i is the expert's mean probability over the micro-batch.
f is counted either over the micro-batch, or over all micro-batches of the step so far. The second option lets a
micro-batch of a single domain use a single expert (arXiv 2501.11873). Processes that share a micro-batch count
together. Each null expert counts with the average share of the null experts, since they are interchangeable (AdaMoE,
arXiv 2406.13233). Every loss is the mean over blocks.

Shape suffixes: B rows of a batch, T tokens, P router columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from composer.model.selection import Routing


class RouterLosses:
    """Factors of the losses, and the token counts of the current step if its micro-batches are balanced together."""

    def __init__(
        self,
        load_balance: float = 0.0,
        z_loss: float = 0.0,
        entropy: float = 0.0,
        guidance: float = 0.0,
        *,
        experts: int,
        global_batch: bool = False,
        total: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.load_balance, self.z_loss = load_balance, z_loss
        self.entropy, self.guidance = entropy, guidance
        self.experts, self.global_batch = experts, global_batch
        self.total = total  # sum over the processes that share each micro-batch
        self._counts: list[torch.Tensor] = []  # one per block, summed over the micro-batches of this step

    def begin_step(self) -> None:
        """Reset the token counts of the previous step."""
        self._counts = []

    def __call__(
        self, routings: Sequence[Routing], own_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | float, torch.Tensor | None]:
        """Return the sum to add to the loss, and the load-balancing loss before its factor (None if it is off).

        `own_B` is the index of the expert whose domain each row comes from, or −1 for none.
        """
        total: torch.Tensor | float = 0.0
        balance = None
        if self.load_balance > 0:
            counts = [self._summed(routing.counts()) for routing in routings]
            if self.global_batch:
                counts = self._counts = self._accumulated(counts)
            parts = [balance_loss(r, c, self.experts) for r, c in zip(routings, counts, strict=True)]
            balance = torch.stack(parts).mean()
            total = self.load_balance * balance
        if self.z_loss > 0:
            total = total + self.z_loss * torch.stack([z_loss(routing) for routing in routings]).mean()
        if self.entropy > 0:
            total = total + self.entropy * torch.stack([entropy(routing) for routing in routings]).mean()
        if self.guidance > 0 and own_B is not None:
            own_share = self._share((own_B >= 0).sum().float())
            losses = [guidance_loss(r, own_B) for r in routings]
            total = total + self.guidance * own_share * torch.stack(losses).mean()
        return total, balance

    def _summed(self, counts_P: torch.Tensor) -> torch.Tensor:
        return counts_P if self.total is None else self.total(counts_P)

    def _share(self, count: torch.Tensor) -> torch.Tensor | float:
        """Return this process's count, divided by the mean of all processes: the weight of its mean in theirs."""
        if self.total is None:
            return 1.0
        processes = self.total(torch.ones_like(count))
        return count * processes / self.total(count).clamp(min=1)

    def _accumulated(self, counts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the counts, added to those of the step's earlier micro-batches."""
        return [a + b for a, b in zip(self._counts, counts, strict=True)] if self._counts else counts


def balance_loss(routing: Routing, counts_P: torch.Tensor, experts: int) -> torch.Tensor:
    """Load-balancing loss n · Σ_i f_i · P_i, with f from the counts and P from the routing."""
    share_P = counts_P / counts_P.sum()
    if len(share_P) > experts:
        nulls = len(share_P) - experts
        share_P = torch.cat([share_P[:experts], share_P[experts:].mean().expand(nulls)])
    return len(share_P) * (share_P * routing.probabilities.mean(dim=0)).sum()


def z_loss(routing: Routing) -> torch.Tensor:
    """Mean of the squared log-partition; 0 if the router computed no logits."""
    if routing.logits is None:
        return routing.probabilities.new_zeros(())
    return routing.logits.logsumexp(dim=-1).square().mean()


def entropy(routing: Routing) -> torch.Tensor:
    """Mean entropy of the probabilities, in nats."""
    return torch.special.entr(routing.probabilities).sum(dim=-1).mean()


def guidance_loss(routing: Routing, own_B: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of −log p of the token's own expert; tokens without an own expert are left out."""
    own_T = own_B.repeat_interleave(len(routing.probabilities) // len(own_B))
    known_T = own_T >= 0
    chance_T = routing.probabilities.gather(1, own_T.clamp(min=0)[:, None])[:, 0]
    return (-chance_T.clamp(min=1e-9).log() * known_T).sum() / known_T.sum().clamp(min=1)
