"""Router warm start: all routers solved from one forward pass over a little text; the model itself stays as it is.

1. Chunks of every domain pass forward together, and each block's router is solved when they arrive (states.py).
2. Each member's expert embedding is its whitened class mean (closed_form.py), e_j = τ · C⁻¹ μ_j, and then moved to
   where logistic regression on the same states puts it (logistic.py).
3. P_r is solved for these embeddings, and for those of pseudo-domains (pseudo.py), by ridge regression.

When an extension keeps the embeddings of its old experts, exactly, only e_new is solved for.
Experts without text take part as targets: their embeddings are what P_r makes of their domain vectors.

Shape suffixes: N experts, M domain-embedding width, H model width.
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
from composer.training.warm_start.closed_form import appended_gate, hits, member_gates, with_text
from composer.training.warm_start.logistic import fit_gates
from composer.training.warm_start.pseudo import Lessons, lessons
from composer.training.warm_start.states import Chunks, Observed, collect, pass_forward

CHUNKS = 32
FEW_CHUNKS = 16
# An expert that is appended has no embedding to begin with: so many times as much of its text is looked at.
NEW_CHUNKS = 4
# Cross-entropy makes p honest; a mix is better off with less of the shared expert than an honest p leaves it.
SHARPEN = 1.5


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
    keep: bool = False,
    preliminary: bool = False,
    progress: Progress = silent,
) -> WarmStart:
    """Solve the routers in place; `domains` are the members in the mix's order.

    Does nothing without any text, or where the router is fixed.

    With `extended` the last member is new, and more of its text is looked at. With `keep` too, the others' expert
    embeddings stay as they are, if the router can keep them at all. `preliminary` spends fewer tokens: a fine-tune
    needs them more.
    """
    routers = [mixture.router for mixture in model.mixtures()]
    if routers[0].fixed or not any(domain.has_text for domain in domains):
        return WarmStart(0, float("nan"))
    generator = torch.Generator().manual_seed(random_seed)
    keep = extended and keep and routers[0].keeps_experts
    chunks = collect(tokenizer, domains, _counts(len(domains), extended, preliminary), generator)
    solver = Solver(domains, standard, chunks, keep, generator)
    own = []

    def arrive(layer: int, observed: Observed) -> None:
        began = time.process_time()
        solver(routers[layer], observed)
        measured("solving seconds", layer, time.process_time() - began)
        own.append(hits(observed, routers[layer].gate().detach().cpu()))

    pass_forward(model, chunks, arrive, generator, progress)
    return WarmStart(chunks.tokens, fmean(own))


def _counts(n: int, extended: bool, preliminary: bool) -> list[int]:
    """How many chunks of each domain pass forward."""
    usual = FEW_CHUNKS if preliminary else CHUNKS
    return [usual] * (n - 1) + [usual * NEW_CHUNKS if extended and not preliminary else usual]


class Solver:
    """Sets the parameters of one router after the other from what was observed at its block."""

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
        """Solve for one block."""
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

    def _append(self, router: Any, observed: Observed) -> None:
        """Solve for the last expert alone."""
        last = len(self.means_NM) - 1
        if last not in self.text:
            return  # P_r alone says where it goes
        current_NH = router.gate_for(self.means_NM.to(router.domains.device)).cpu()
        gates_NH = appended_gate(observed, current_NH)
        if self.text != [last]:
            gates_NH = fit_gates(
                observed.second_HH, observed.sample_XH, observed.labels_X, gates_NH, kept=last
            )
        router.correct(self.means_NM, gates_NH)
