"""Router warm start: fit the routers to the domains before any fine-tune, with the model frozen.

Text of each domain passes forward once with its own expert forced; the MLP inputs of each block are kept
at random positions. Then every router learns, from these states alone, to score a state highest with its
own domain. In each step the domain vectors are resampled (the mean of 1 to 64 random chunk vectors), so that P_r
learns a map from embedding space instead of a table of N rows. Experts without text take part as targets.

Shape suffixes: L blocks, S states, H model width, N domains, M domain-embedding width, B states of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from composer.domains import Domain, Standard
from composer.modeling import NexusForCausalLM, forced
from composer.progress import Progress, measured, silent

CHUNK_TOKENS = 128
CHUNKS_PER_DOMAIN = 192
POSITIONS_PER_CHUNK = 24
FORWARD_ROWS = 16
STEPS = 600
REPORTED_STEPS = 10
BATCH_STATES = 512
LEARNING_RATE = 3e-3
GROUP_SIZES = (1, 4, 16, 64)


@dataclass(frozen=True)
class WarmStart:
    """What a warm start did: tokens passed forward, and how often a state now chooses its own domain."""

    tokens_forwarded: int
    own_domain: float


def warm_start(
    model: NexusForCausalLM,
    tokenizer: Any,
    domains: Sequence[Domain],
    standard: Standard,
    *,
    random_seed: int,
    progress: Progress = silent,
) -> WarmStart:
    """Fit the routers in place; `domains` are the members in the mix's order. Does nothing without any text."""
    if not any(domain.has_text for domain in domains):
        return WarmStart(0, float("nan"))
    generator = torch.Generator().manual_seed(random_seed)
    states_LSH, labels_S, tokens = _collect(model, tokenizer, domains, generator, progress)
    own = _fit(model, states_LSH, labels_S, domains, standard, generator, progress)
    return WarmStart(tokens, own)


@torch.no_grad()
def _collect(
    model: NexusForCausalLM,
    tokenizer: Any,
    domains: Sequence[Domain],
    generator: torch.Generator,
    progress: Progress,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """MLP inputs [L, S, H], the domain of each state [S], and how many tokens were passed forward."""
    states: list[torch.Tensor] = []
    labels: list[int] = []
    tokens = 0
    with _recorded(model) as inputs:
        for j, domain in enumerate(domains):
            if not domain.has_text:
                continue
            rows = _rows(tokenizer, domain, generator)
            with forced(model, j):
                for start in range(0, len(rows), FORWARD_ROWS):
                    batch = rows[start : start + FORWARD_ROWS]
                    width = max(map(len, batch))
                    # Padded on the right: a causal model's states before the padding do not see it.
                    padded = torch.tensor([row + [0] * (width - len(row)) for row in batch])
                    model(input_ids=padded.to(model.device), use_cache=False, logits_to_keep=1)
                    picked = _positions(batch, width, generator)
                    states.append(torch.stack([x.flatten(0, -2)[picked].float().cpu() for x in inputs]))
                    labels += [j] * len(picked)
                    tokens += padded.numel()
            progress("collecting router inputs", j + 1, len(domains))
    return torch.cat(states, dim=1), torch.tensor(labels), tokens


def _rows(tokenizer: Any, domain: Domain, generator: torch.Generator) -> list[list[int]]:
    chunks = domain.chunks()
    order = torch.randperm(len(chunks), generator=generator)[:CHUNKS_PER_DOMAIN].tolist()
    ids = tokenizer(
        [chunks[i] for i in order], add_special_tokens=False, truncation=True, max_length=CHUNK_TOKENS
    )
    return [row for row in ids["input_ids"] if row]


def _positions(batch: Sequence[Sequence[int]], width: int, generator: torch.Generator) -> torch.Tensor:
    """Random positions inside each row, as indices into the flattened batch."""
    picked = [
        i * width + torch.randperm(len(row), generator=generator)[:POSITIONS_PER_CHUNK]
        for i, row in enumerate(batch)
    ]
    return torch.cat(picked)


@contextmanager
def _recorded(model: NexusForCausalLM) -> Iterator[list[torch.Tensor]]:
    """The input of each block's mixture in the last forward pass."""
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


def _fit(
    model: NexusForCausalLM,
    states_LSH: torch.Tensor,
    labels_S: torch.Tensor,
    domains: Sequence[Domain],
    standard: Standard,
    generator: torch.Generator,
    progress: Progress,
) -> float:
    """Cross-entropy of softmax(x · P_r(d̃_j)) against the state's domain; returns the final share of hits."""
    routers = [mixture.router for mixture in model.mixtures()]
    parameters = [p for router in routers for p in router.parameters()]
    for parameter in parameters:
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    device = parameters[0].device
    hits = seen = 0
    with torch.enable_grad():
        for step in range(STEPS):
            vectors_NM = standard(torch.stack([_resampled(domain, generator) for domain in domains])).to(
                device
            )
            batch_B = torch.randint(len(labels_S), (BATCH_STATES,), generator=generator)
            target_B = labels_S[batch_B].to(device)
            logits = [
                states_LSH[layer, batch_B].to(device) @ router.gate_for(vectors_NM).T
                for layer, router in enumerate(routers)
            ]
            loss = torch.stack([nn.functional.cross_entropy(each, target_B) for each in logits]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step >= STEPS * 9 // 10:
                hits += sum(int((each.argmax(dim=1) == target_B).sum()) for each in logits)
                seen += len(target_B) * len(routers)
            if (step + 1) % REPORTED_STEPS == 0:
                measured("router_loss", step + 1, loss.item())
            progress("warm-starting routers", step + 1, STEPS)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return hits / seen


def _resampled(domain: Domain, generator: torch.Generator) -> torch.Tensor:
    """The mean of a few of a domain's chunk vectors [M]: another vector that means the same domain."""
    size = GROUP_SIZES[int(torch.randint(len(GROUP_SIZES), (1,), generator=generator))]
    picked = torch.randint(len(domain.vectors), (size,), generator=generator)
    return domain.vectors[picked].mean(dim=0)
