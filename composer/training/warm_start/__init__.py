"""Router warm start: solve all routers from one forward pass over a small amount of text. The model does not change.

1. Chunks of all domains pass forward together. Each block's router is solved when the pass reaches it (states.py).
   The processes of a team share the chunks; the first one solves, and the others take over its routers.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from composer.mix.domains import Domain, Standard
from composer.model.modeling import NexusForCausalLM
from composer.processes import ALONE, Team, current
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
from composer.training.warm_start.states import Chunks, Observed, Part, collect, pass_forward, sampled
from registry.home import Registry

Opening = Callable[[Registry], Any]

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
    opening: Opening | None = None,
    progress: Progress = silent,
) -> WarmStart:
    """Solve the routers in place. `domains` are the members' domains in the mix's order.

    Does nothing if no domain has text, or if the router is fixed.

    `extended`: the last member is new, and more of its text is used. `keep` (with `extended`): the other experts'
    embeddings stay unchanged, if this type of router can keep them. `preliminary`: use fewer tokens, because a
    fine-tune follows. `opening`: a picklable function that opens the same model in another process of the team; without
    it nothing is shared. Raises ProcessLostError.
    """
    routers = [mixture.router for mixture in model.mixtures()]
    if routers[0].fixed or not any(domain.has_text for domain in domains):
        return WarmStart(0, float("nan"))
    generator = torch.Generator().manual_seed(random_seed)
    keep = extended and keep and routers[0].keeps_experts
    chunks = collect(tokenizer, domains, _counts(len(domains), extended, preliminary), generator)
    solver = Solver(domains, standard, chunks, keep, generator)
    pass_ = Pass(model, solver, progress)
    picked, team = sampled(chunks, generator), current()
    if team.size == 1 or opening is None or len(chunks.lengths_R) < team.size:
        pass_.run(Part(chunks, picked, ALONE))
    else:
        team.share(_share_pass, opening, chunks, picked, own=pass_)
    return WarmStart(chunks.tokens, fmean(pass_.own))


@dataclass
class Pass:
    """The forward pass of one process: a solver, or in another process None, where solved routers arrive.

    own: by block, the share of states whose own domain's expert scores highest.
    """

    model: NexusForCausalLM
    solver: Solver | None
    progress: Progress = silent
    own: list[float] = field(default_factory=list)

    def run(self, part: Part) -> None:
        """Pass a part forward, and solve or take over each block's router on the way."""
        routers = [mixture.router for mixture in self.model.mixtures()]

        def attend(layer: int, observed: Observed) -> None:
            if self.solver is not None:
                with _timed(layer):
                    self.solver.direct(routers[layer], observed)
            _hand_over(part.team, routers[layer])

        def arrive(layer: int, observed: Observed) -> None:
            if self.solver is not None:
                with _timed(layer):
                    self.solver(routers[layer], observed)
                self.own.append(hits(observed, routers[layer].gate().detach().cpu()))
            _hand_over(part.team, routers[layer])

        context = attend if routers[0].reads_context else None
        pass_forward(self.model, part, arrive, self.progress, attend=context)


def _share_pass(
    team: Team, opening: Opening, chunks: Chunks, picked: torch.Tensor, own: Pass | None = None
) -> None:
    """Pass this process's rows forward. `own`: the leader's pass."""
    assert team.registry is not None
    (own or Pass(opening(team.registry), None)).run(Part(chunks, picked, team))


def _hand_over(team: Team, router: Any) -> None:
    """Give the leader's router to the other processes."""
    if team.size > 1:
        state = {name: value.cpu() for name, value in router.state_dict().items()} if team.leads else {}
        router.load_state_dict(team.agreed(state))


@contextmanager
def _timed(layer: int) -> Iterator[None]:
    began = time.process_time()
    yield
    measured("solving seconds", layer, time.process_time() - began)


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
