"""What the routers will see: moments of every block's MLP inputs, collected by forward passes alone.

Were each domain's text passed through its own expert only, every state after the first block would carry that
expert's fingerprint. A router fitted to such states learns to repeat the block before it: it separates them
almost perfectly and then, once it routes itself, merely copies the first block's choice. So a token takes its
own expert with some probability and otherwise any expert, or whatever the routers already say.

Shape suffixes: L blocks, T tokens of a batch, S sampled states, C chunks, H model width, M domain-embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from composer.domains import Domain
from composer.modeling import NexusForCausalLM, NexusMLP, Routing
from composer.progress import Progress, silent

CHUNK_TOKENS = 256
FORWARD_ROWS = 16
# States kept as they are, to measure temperatures and hits on; everything else is a sum.
SAMPLED_PER_CHUNK = 8


@dataclass(frozen=True)
class Observed:
    """Sums over the states x of all positions, and a few states as they were.

    second_LHH: mean of x xᵀ, every domain with the same weight. sums_CLH, counts_C: Σ x and the number of
    states of each chunk, whose embedder's vector is vectors_CM and whose domain owner_C. sample_LSH: states,
    of domain labels_S. tokens: passed forward.
    """

    second_LHH: torch.Tensor
    sums_CLH: torch.Tensor
    counts_C: torch.Tensor
    vectors_CM: torch.Tensor
    owner_C: torch.Tensor
    sample_LSH: torch.Tensor
    labels_S: torch.Tensor
    tokens: int

    def joined(self, other: Observed) -> Observed:
        """Both, with equal weight. Only the later sample is kept: its routing is nearer to the final one."""
        return Observed(
            (self.second_LHH + other.second_LHH) / 2,
            torch.cat([self.sums_CLH, other.sums_CLH]),
            torch.cat([self.counts_C, other.counts_C]),
            torch.cat([self.vectors_CM, other.vectors_CM]),
            torch.cat([self.owner_C, other.owner_C]),
            other.sample_LSH,
            other.labels_S,
            self.tokens + other.tokens,
        )

    def domain_means(self, n: int) -> torch.Tensor:
        """Mean states of domains 0 … n−1 [L, n, H]; NaN for a domain without text."""
        means = []
        for j in range(n):
            mine = self.owner_C == j
            means.append(self.sums_CLH[mine].sum(dim=0) / self.counts_C[mine].sum())
        return torch.stack(means, dim=1)


@torch.no_grad()
def observe(
    model: NexusForCausalLM,
    tokenizer: Any,
    domains: Sequence[Domain],
    picked: Sequence[Sequence[int]],
    own_share: float | None,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Observed:
    """Pass the picked chunks of each domain forward.

    own_share: the probability that a token takes its own expert, any expert otherwise; None: as the routers say.
    A domain without text is passed over; one whose chunks were used up gives its first ones again.
    """
    parts = []
    for j, domain in enumerate(domains):
        if domain.has_text:
            route = None if own_share is None else _noisy(len(domains), j, own_share, generator)
            chunks = list(picked[j]) or list(range(min(len(domain.vectors), FORWARD_ROWS)))
            parts.append(_domain(model, tokenizer, domain, j, chunks, route, generator))
        progress("collecting router inputs", j + 1, len(domains))
    return Observed(
        torch.stack([part.second_LHH for part in parts]).mean(dim=0),
        torch.cat([part.sums_CLH for part in parts]),
        torch.cat([part.counts_C for part in parts]),
        torch.cat([part.vectors_CM for part in parts]),
        torch.cat([part.owner_C for part in parts]),
        torch.cat([part.sample_LSH for part in parts], dim=1),
        torch.cat([part.labels_S for part in parts]),
        sum(part.tokens for part in parts),
    )


Route = Callable[[torch.Tensor], Routing]


def _domain(
    model: NexusForCausalLM,
    tokenizer: Any,
    domain: Domain,
    label: int,
    picked: Sequence[int],
    route: Route | None,
    generator: torch.Generator,
) -> Observed:
    """What is observed on one domain."""
    texts = domain.chunks()
    tokenized = tokenizer(
        [texts[i] for i in picked], add_special_tokens=False, truncation=True, max_length=CHUNK_TOKENS
    )["input_ids"]
    rows = [(chunk, row) for chunk, row in zip(picked, tokenized, strict=True) if row]
    second: torch.Tensor | int = 0
    sums, sample = [], []
    with _recorded(model) as inputs, _routed(model, route):
        for start in range(0, len(rows), FORWARD_ROWS):
            batch = [row for _, row in rows[start : start + FORWARD_ROWS]]
            width = max(map(len, batch))
            # Padded on the right: a causal model's states before the padding do not see it.
            padded = torch.tensor([row + [0] * (width - len(row)) for row in batch])
            model(input_ids=padded.to(model.device), use_cache=False, logits_to_keep=1)
            for i, row in enumerate(batch):
                x_LTH = torch.stack([x[i, : len(row)] for x in inputs]).float()
                second = second + (x_LTH.transpose(1, 2) @ x_LTH).cpu()
                sums.append(x_LTH.sum(dim=1).cpu())
                few = torch.randperm(len(row), generator=generator)[:SAMPLED_PER_CHUNK]
                sample.append(x_LTH[:, few.to(x_LTH.device)].cpu())
    counts = torch.tensor([len(row) for _, row in rows], dtype=torch.float32)
    assert isinstance(second, torch.Tensor)
    sample_LSH = torch.cat(sample, dim=1)
    return Observed(
        second / counts.sum(),
        torch.stack(sums),
        counts,
        domain.vectors[[chunk for chunk, _ in rows]],
        torch.full((len(rows),), label),
        sample_LSH,
        torch.full((sample_LSH.shape[1],), label),
        int(counts.sum()),
    )


def _noisy(experts: int, own: int, share: float, generator: torch.Generator) -> Route:
    """Each token, in each block anew: its own expert with probability `share`, else any; weight 1."""

    def route(x_TH: torch.Tensor) -> Routing:
        chosen_T1 = torch.randint(experts, (len(x_TH), 1), generator=generator)
        kept_T1 = torch.rand(len(x_TH), 1, generator=generator) < share
        chosen_T1 = chosen_T1.masked_fill(kept_T1, own).to(x_TH.device)
        weights_T1 = torch.ones(len(x_TH), 1, device=x_TH.device)
        return Routing(weights_T1.expand(-1, experts) / experts, chosen_T1, weights_T1)

    return route


@contextmanager
def _routed(model: NexusForCausalLM, route: Route | None) -> Iterator[None]:
    """Every block chooses by `route` in place of its router."""
    with ExitStack() as stack:
        for mixture in model.mixtures() if route is not None else []:
            mixture.route = route  # type: ignore[method-assign, assignment]
            stack.callback(_restore, mixture)
        yield


def _restore(mixture: NexusMLP) -> None:
    del mixture.route


@contextmanager
def _recorded(model: NexusForCausalLM) -> Iterator[list[torch.Tensor]]:
    """The input of each block's mixture in the last forward pass, [B, S, H] each."""
    mixtures = model.mixtures()
    inputs: list[torch.Tensor] = [torch.empty(0)] * len(mixtures)

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            inputs[layer] = args[0]

        return hook

    handles = [mixture.register_forward_pre_hook(keep(layer)) for layer, mixture in enumerate(mixtures)]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
