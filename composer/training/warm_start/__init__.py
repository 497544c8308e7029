"""Router warm start: solve all routers from one forward pass over a small amount of text. The model does not change.

1. Chunks of all domains pass forward together. Each block's router is solved when the pass reaches it (states.py).
2. Each member's expert embedding starts as its whitened class mean e_j = τ · C⁻¹ μ_j (closed_form.py). Logistic
   regression on the same states then refines it (logistic.py).
3. Ridge regression solves P_r for these embeddings and for those of pseudo-domains (pseudo.py).

A router with context reads running means along one direction per member. The directions are whitened class means of
the attention's inputs, solved when the pass reaches the attention. Then the same three steps follow.

An extension can keep the old experts' embeddings exactly; then only e_new is solved.
An expert without text has no target: P_r alone computes its embedding from its domain vector.

Shape suffixes: N experts, M domain-embedding width, H width of the states (states.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from composer.mix.domains import Domain, Standard
from composer.model.modeling import NexusForCausalLM
from composer.progress import Progress, measured, silent
from composer.training.warm_start.closed_form import (
    appended_gate,
    hits,
    inverse,
    member_gates,
    with_text,
)
from composer.training.warm_start.logistic import fit_gates
from composer.training.warm_start.pseudo import Lessons, lessons
from composer.training.warm_start.states import Chunks, Observed, collect, pass_forward

CHUNKS = 32
FEW_CHUNKS = 16
# Factor on the number of chunks for an appended expert, which has no embedding yet.
NEW_CHUNKS = 4
# Cross-entropy calibrates p. A mix works better with a smaller share of the shared expert than a calibrated p gives.
SHARPEN = 1.5


@dataclass(frozen=True)
class WarmStart:
    """Report of a warm start.

    tokens_forwarded: number of tokens that passed forward.
    own_domain: share of states whose own domain's expert scores highest, mean over domains and blocks.
    """

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
    keep: bool = False,
    preliminary: bool = False,
    progress: Progress = silent,
) -> WarmStart:
    """Solve the routers in place. `domains` are the members' domains in the mix's order.

    Does nothing if no domain has text, or if the router is fixed.

    `extended`: the last member is new, and more of its text is used. `keep` (with `extended`): the other experts'
    embeddings stay unchanged, if this type of router can keep them. `preliminary`: use fewer tokens, because a
    fine-tune follows.
    """
    routers = [mixture.router for mixture in model.mixtures()]
    if routers[0].fixed or not any(domain.has_text for domain in domains):
        return WarmStart(0, float("nan"))
    generator = torch.Generator().manual_seed(random_seed)
    keep = extended and keep and routers[0].keeps_experts
    chunks = collect(tokenizer, domains, _counts(len(domains), extended, preliminary), generator)
    solver = Solver(domains, standard, chunks, keep, generator)
    own = []

    def attend(layer: int, observed: Observed) -> None:
        began = time.process_time()
        solver.direct(routers[layer], observed)
        measured("solving seconds", layer, time.process_time() - began)

    def arrive(layer: int, observed: Observed) -> None:
        began = time.process_time()
        solver(routers[layer], observed)
        measured("solving seconds", layer, time.process_time() - began)
        own.append(hits(observed, routers[layer].gate().detach().cpu()))

    context = attend if routers[0].reads_context else None
    pass_forward(model, chunks, arrive, generator, progress, attend=context)
    return WarmStart(chunks.tokens, fmean(own))


def _counts(n: int, extended: bool, preliminary: bool) -> list[int]:
    """Return the number of chunks of each domain to pass forward."""
    usual = FEW_CHUNKS if preliminary else CHUNKS
    return [usual] * (n - 1) + [usual * NEW_CHUNKS if extended and not preliminary else usual]


class Solver:
    """Solver of one router after another from the states of its block."""

    def __init__(
        self,
        domains: Sequence[Domain],
        standard: Standard,
        chunks: Chunks,
        keep: bool,
        generator: torch.Generator,
    ) -> None:
        self.means_NM = standard(torch.stack([domain.mean for domain in domains]))
        self.text = [j for j, domain in enumerate(domains) if domain.has_text]
        self.keep = keep
        self.lessons: Lessons | None = None
        if not keep:
            self.lessons = lessons(domains, chunks, generator)
            self.vectors_DM = standard(self.lessons.vectors_DM)

    @torch.no_grad()
    def __call__(self, router: Any, observed: Observed) -> None:
        """Solve the router of one block."""
        if self.lessons is None:
            self._append(router, observed)
            return
        gates_NH, inverse_HH, scale = member_gates(observed, len(self.means_NM))
        text, labels_X = with_text(observed)
        if len(text) > 1:
            gates_NH[text] = fit_gates(observed.second_HH, observed.sample_XH, labels_X, gates_NH[text])
        gates_NH = SHARPEN * gates_NH
        targets_DH = self.lessons.targets(observed, gates_NH, inverse_HH, SHARPEN * scale)
        router.solve(self.vectors_DM, targets_DH, self.lessons.weights_D)
        router.correct(self.means_NM[text], gates_NH[text], text)

    @torch.no_grad()
    def direct(self, router: Any, observed: Observed) -> None:
        """Solve the directions of one block's context: the whitened mean of each domain's attention inputs.

        Directions that are kept stay unchanged; one of a domain without text is zero.
        """
        n = len(self.means_NM)
        solved_NH = observed.domain_means(n).nan_to_num(0) @ inverse(observed.second_HH)
        if self.keep:
            solved_NH[:-1] = router.directions[:-1].to(solved_NH)
        router.directions = solved_NH.to(router.directions)

    def _append(self, router: Any, observed: Observed) -> None:
        """Solve the last expert's embedding only."""
        last = len(self.means_NM) - 1
        if last not in self.text:
            return  # without text, P_r alone gives the new embedding
        current_NH = router.gate_for(self.means_NM.to(router.domains.device)).cpu()
        gates_NH = appended_gate(observed, current_NH)
        if self.text != [last]:
            gates_NH = fit_gates(
                observed.second_HH, observed.sample_XH, observed.labels_X, gates_NH, kept=last
            )
        router.correct(self.means_NM, gates_NH)
