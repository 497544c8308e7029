"""Router warm start: all routers solved in closed form from a few forward passes; no gradient step.

1. Text of every domain passes forward in two rounds (states.py): first under noisy routing, then under the
   routing that the first round gave.
2. Each member's expert embedding is its whitened class mean (closed_form.py), e_j = τ · C⁻¹ μ_j.
3. P_r is solved for these embeddings, and for those of pseudo-domains (pseudo.py), by ridge regression.

When a mix is extended, the embeddings of its old experts are kept exactly and only e_new is solved for.
Experts without text take part as targets: their embeddings are what P_r makes of their domain vectors.

Shape suffixes: L blocks, N experts, M domain-embedding width, H model width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from composer.domains import Domain, Standard
from composer.modeling import NexusForCausalLM
from composer.progress import Progress, measured, silent
from composer.warmstart.closed_form import appended_gate, hits, member_gates, project
from composer.warmstart.states import Observed, observe

# Chunks, not tokens, are what a class mean needs many of: neighbouring states resemble each other.
CHUNKS_PER_ROUND = 64
FEW_CHUNKS = 16
# The share of tokens that pass through their own expert in the first round; the others take any expert.
OWN_SHARE = 0.3


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
    extended: bool = False,
    preliminary: bool = False,
    progress: Progress = silent,
) -> WarmStart:
    """Solve the routers in place; `domains` are the members in the mix's order.

    Does nothing without any text, or where the router is fixed.

    With `extended` the last member is new: the others' expert embeddings stay as they are, if the router can
    keep them at all. `preliminary` spends fewer tokens: a fine-tune has most of them.
    """
    routers = [mixture.router for mixture in model.mixtures()]
    if routers[0].fixed or not any(domain.has_text for domain in domains):
        return WarmStart(0, float("nan"))
    generator = torch.Generator().manual_seed(random_seed)
    chunks = FEW_CHUNKS if preliminary else CHUNKS_PER_ROUND
    keep = extended and routers[0].keeps_experts
    order = [torch.randperm(len(domain.vectors), generator=generator).tolist() for domain in domains]
    observed: Observed | None = None
    for round_, share in enumerate((OWN_SHARE, None)):
        picked = [each[round_ * chunks : (round_ + 1) * chunks] for each in order]
        seen = observe(model, tokenizer, domains, picked, share, generator, progress)
        observed = seen if observed is None else observed.joined(seen)
        began = time.process_time()
        solve(routers, observed, domains, standard, keep, generator)
        measured("solving seconds", round_, time.process_time() - began)
    assert observed is not None
    gates_LNH = torch.stack([router.gate_for(router.domains) for router in routers]).detach()
    return WarmStart(observed.tokens, hits(observed, gates_LNH.cpu()))


@torch.no_grad()
def solve(
    routers: Sequence[Any],
    observed: Observed,
    domains: Sequence[Domain],
    standard: Standard,
    keep: bool,
    generator: torch.Generator,
) -> None:
    """Set the parameters of all routers from what was observed."""
    means_NM = standard(torch.stack([domain.mean for domain in domains]))
    current_LNH = torch.stack(
        [router.gate_for(means_NM.to(router.domains.device)) for router in routers]
    ).cpu()
    if keep:
        if not domains[-1].has_text:
            return  # P_r alone says where it goes
        gates_LNH = appended_gate(observed, current_LNH)
        for router, gates_NH in zip(routers, gates_LNH, strict=True):
            router.correct(means_NM, gates_NH)
        return
    gates_LNH, inverse_LHH, scale_L = member_gates(observed, len(domains))
    project(routers, observed, domains, standard, gates_LNH, inverse_LHH, scale_L, generator)
