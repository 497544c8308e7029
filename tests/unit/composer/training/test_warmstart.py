"""The router warm start on synthetic states: accuracy, preserved parameters and generalisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from composer.mix.domains import Domain, Standard
from composer.model.prefix import PrefixMeans
from composer.model.routers.base import Router
from composer.model.routers.linear import LinearRouter
from composer.model.routers.nexus import NexusRouter
from composer.model.routers.nexus_context import NexusContextRouter
from composer.training.warm_start import Solver
from composer.training.warm_start.closed_form import hits
from composer.training.warm_start.kinds import k_means, stratified
from composer.training.warm_start.logistic import fit_gates
from composer.training.warm_start.pseudo import pseudo_domains
from composer.training.warm_start.states import Chunks, Observed

HIDDEN, WIDTH, CHUNKS, STATES = 16, 5, 48, 24


def world(seed: int = 0, domains: int = 4, spread: float = 0.5) -> tuple[list[Domain], torch.Tensor]:
    """Domains in embedding space, and the linear map [M, H] from a domain vector to its mean state."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(domains, WIDTH, generator=generator)
    made = []
    for j, center in enumerate(centers):
        vectors = center + spread * torch.randn(CHUNKS, WIDTH, generator=generator)
        made.append(Domain(f"d{j}@1", vectors.mean(dim=0), vectors, ["some text"]))
    return made, torch.randn(WIDTH, HIDDEN, generator=generator) / WIDTH**0.5


def states_of(domain: Domain, to_state: torch.Tensor, seed: int = 7, noise: float = 0.3) -> torch.Tensor:
    """States [C, STATES, H] of each chunk of a domain."""
    generator = torch.Generator().manual_seed(seed)
    clean = (domain.vectors @ to_state)[:, None].expand(-1, STATES, -1)
    return clean + noise * torch.randn(clean.shape, generator=generator)


def observed(domains: list[Domain], to_state: torch.Tensor) -> tuple[Chunks, Observed]:
    """The chunks of every domain with text, and the states of a block for them."""
    texts = {j: states_of(d, to_state, seed=j) for j, d in enumerate(domains) if d.has_text}
    flat = [x.flatten(0, 1) for x in texts.values()]
    sums = torch.cat([x.sum(dim=1) for x in texts.values()])
    owner = torch.tensor([j for j, x in texts.items() for _ in range(len(x))])
    lengths, vectors = torch.full((len(sums),), STATES), torch.cat([domains[j].vectors for j in texts])
    chunks = Chunks(torch.zeros(len(sums), STATES, dtype=torch.long), lengths, vectors, owner)
    return chunks, Observed(
        second_HH=torch.stack([x.T @ x / len(x) for x in flat]).mean(dim=0),
        sums_CH=sums,
        counts_C=lengths.float(),
        vectors_CM=vectors,
        owner_C=owner,
        sample_XH=torch.cat([x[:, :4].flatten(0, 1) for x in texts.values()]),
        labels_X=owner.repeat_interleave(4),
    )


def solve(
    routers: list[Any],
    domains: list[Domain],
    to_state: torch.Tensor,
    standard: Standard,
    *,
    keep: bool = False,
) -> None:
    """Solve the routers of blocks that all have the same states."""
    chunks, seen = observed(domains, to_state)
    solver = Solver(domains, standard, chunks, keep, torch.Generator().manual_seed(0))
    for router in routers:
        solver(router, seen)


def standard_of(domains: list[Domain]) -> Standard:
    return Standard.of(torch.stack([domain.mean for domain in domains]))


def fresh(kind: type[Router], domains: list[Domain], standard: Standard, layers: int = 2) -> list[Any]:
    routers = []
    for layer in range(layers):
        router = kind(HIDDEN, WIDTH, len(domains))
        router.reset_parameters(torch.Generator().manual_seed(layer))
        router.domains = standard(torch.stack([domain.mean for domain in domains]))
        routers.append(router)
    return routers


def fitted(kind: type[Router], domains: list[Domain], to_state: torch.Tensor) -> tuple[list[Any], Standard]:
    standard = standard_of(domains)
    routers = fresh(kind, domains, standard)
    solve(routers, domains, to_state, standard)
    return routers, standard


def share(router: Router, domain: Domain, to_state: torch.Tensor, expert: int) -> float:
    """Share of a domain's new states that are routed to an expert."""
    states = states_of(domain, to_state, seed=99).flatten(0, 1)
    with torch.no_grad():
        return (router(states).argmax(dim=1) == expert).float().mean().item()


@pytest.mark.parametrize("kind", [NexusRouter, LinearRouter])
def test_states_that_were_not_seen_go_to_their_own_domains_expert(kind: type[Router]) -> None:
    domains, to_state = world()
    routers, _ = fitted(kind, domains, to_state)
    for router in routers:
        for j, domain in enumerate(domains):
            assert share(router, domain, to_state, j) > 0.85


def test_an_expert_appended_without_any_state_gets_more_than_its_share() -> None:
    """P_r generalises to a vector that was not in its regression."""
    gained = []
    for seed in range(5):
        domains, to_state = world(seed, 9, spread=1.0)
        old, new = domains[:-1], domains[-1]
        routers, standard = fitted(NexusRouter, old, to_state)
        routers[0].append(standard(new.mean), torch.Generator())
        gained.append(share(routers[0], new, to_state, len(old)))
    assert sum(gained) / len(gained) > 2 / 9


def test_extension_keeps_the_old_embeddings_and_routes_to_the_new_expert() -> None:
    domains, to_state = world()
    routers, standard = fitted(NexusRouter, domains[:-1], to_state)
    before = [router.gate().detach().clone() for router in routers]
    for router in routers:
        router.append(standard(domains[-1].mean), torch.Generator())
    solve(routers, domains, to_state, standard, keep=True)
    for router, gate in zip(routers, before, strict=True):
        torch.testing.assert_close(router.gate()[:-1], gate, rtol=1e-4, atol=1e-4)
        for j, domain in enumerate(domains):
            assert share(router, domain, to_state, j) > 0.8


def noisy_rows(mean: torch.Tensor, seed: int) -> torch.Tensor:
    """Attention inputs [CHUNKS, STATES, HIDDEN] whose single states hardly show their domain."""
    generator = torch.Generator().manual_seed(seed)
    return mean + 3 * torch.randn(CHUNKS, STATES, HIDDEN, generator=generator)


def with_context(router: Any, rows: dict[int, torch.Tensor], states: Observed) -> Observed:
    """The states of a block with the context that its router reads, for the attention inputs `rows`."""
    means = PrefixMeans(blocks=1)
    means.begin(None, None)
    u = torch.cat(list(rows.values()))
    means.add(0, u @ router.directions.T)
    means.normalise(torch.ones(*u.shape[:2], 1), 0.0)
    features = means.features(0)
    x = torch.cat([torch.zeros_like(u), features], dim=-1)  # the state itself shows nothing
    flat = x.flatten(0, 1)
    return replace(
        states,
        second_HH=flat.T @ flat / len(flat),
        sums_CH=x.sum(dim=1),
        sample_XH=flat,
        labels_X=states.owner_C.repeat_interleave(STATES),
    )


def test_context_tells_domains_apart_that_no_single_state_does_and_extension_keeps_its_directions() -> None:
    domains, to_state = world(domains=3)
    standard = standard_of(domains)
    centers = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(2))
    (router,) = fresh(NexusContextRouter, domains[:2], standard, layers=1)
    for members in (domains[:2], domains):
        keep = len(members) == 3
        if keep:
            old, directions = router.gate().detach().clone(), router.directions.clone()
            router.append(standard(domains[2].mean), torch.Generator())
        chunks, states = observed(members, to_state)
        rows = {j: noisy_rows(centers[j], j) for j in range(len(members))}
        solver = Solver(members, standard, chunks, keep, torch.Generator().manual_seed(0))
        u = torch.cat(list(rows.values()))
        flat = u.flatten(0, 1)
        inputs = replace(states, second_HH=flat.T @ flat / len(flat), sums_CH=u.sum(dim=1))
        solver.direct(router, inputs)
        seen = with_context(router, rows, states)
        solver(router, seen)
        assert hits(seen, router.gate().detach()) > 0.85
    assert torch.equal(router.directions[:2], directions)
    torch.testing.assert_close(router.gate()[:2, : old.shape[1]], old, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(router.gate()[:2, old.shape[1] :], torch.zeros(2, 1), atol=1e-4, rtol=0)


def test_the_direction_of_a_domain_without_text_is_zero() -> None:
    domains, to_state = world(domains=3)
    closed = Domain("closed@1", domains[-1].mean, domains[-1].vectors[:8], [])
    members = [*domains[:-1], closed]
    standard = standard_of(members)
    (router,) = fresh(NexusContextRouter, members, standard, layers=1)
    chunks, states = observed(members, to_state)
    Solver(members, standard, chunks, False, torch.Generator().manual_seed(0)).direct(router, states)
    assert router.directions[:2].abs().sum() > 0
    assert not router.directions[2].any()


def test_an_expert_without_text_is_a_target_and_takes_no_other_domains_states() -> None:
    domains, to_state = world(domains=5)
    closed = Domain("closed@1", domains[-1].mean, domains[-1].vectors[:8], [])
    routers, _ = fitted(NexusRouter, [*domains[:-1], closed], to_state)
    for j, domain in enumerate(domains[:-1]):
        assert share(routers[0], domain, to_state, j) > 0.7
    assert torch.isfinite(routers[0].gate()).all()


def test_extension_by_an_expert_without_text_changes_nothing() -> None:
    domains, to_state = world()
    routers, standard = fitted(NexusRouter, domains[:-1], to_state)
    closed = Domain("closed@1", domains[-1].mean, domains[-1].vectors[:8], [])
    for router in routers:
        router.append(standard(closed.mean), torch.Generator())
    before = [router.gate().detach().clone() for router in routers]
    members = [*domains[:-1], closed]
    solve(routers, members, to_state, standard, keep=True)
    for router, gate in zip(routers, before, strict=True):
        assert torch.equal(router.gate(), gate)


def test_the_same_states_give_the_same_router() -> None:
    domains, to_state = world()
    one, _ = fitted(NexusRouter, domains, to_state)
    other, _ = fitted(NexusRouter, domains, to_state)
    assert all(torch.equal(a.w2, b.w2) for a, b in zip(one, other, strict=True))


def test_a_single_expert_with_text_is_solved_too() -> None:
    domains, to_state = world(domains=1)
    routers, _ = fitted(NexusRouter, domains, to_state)
    assert torch.isfinite(routers[0].gate()).all()


def test_correcting_changes_the_gate_where_asked_and_is_noticed_by_its_cache() -> None:
    domains, _ = world()
    standard = standard_of(domains)
    (router,) = fresh(NexusRouter, domains, standard, layers=1)
    wanted = torch.randn(len(domains), HIDDEN, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        router.gate()
        router.correct(router.domains, wanted)
        torch.testing.assert_close(router.gate(), wanted, rtol=1e-4, atol=1e-4)


def test_pseudo_domains_separate_distant_clusters() -> None:
    domains, _ = world(domains=3)
    vectors = torch.cat([10 * d.mean + d.vectors for d in domains])
    clusters = k_means(vectors, 3, torch.Generator().manual_seed(1))
    assert all(len(clusters[i * CHUNKS : (i + 1) * CHUNKS].unique()) == 1 for i in range(3))
    for group in pseudo_domains(vectors, torch.Generator().manual_seed(1)):
        assert len(group) >= 3


def skewed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States [X, 3] of two classes whose covariances differ, their labels, and the least-squares gates [2, 3]."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(400, 3, generator=generator) * torch.tensor([4.0, 0.2, 0.0])
    narrow = torch.randn(400, 3, generator=generator) * torch.tensor([0.2, 0.2, 0.0])
    wide += torch.tensor([4.0, 0.5, 1.0])
    narrow += torch.tensor([-0.5, 0.0, 1.0])
    x, labels = torch.cat([wide, narrow]), torch.arange(2).repeat_interleave(400)
    means = torch.stack([wide.mean(dim=0), narrow.mean(dim=0)])
    return x, labels, means @ torch.linalg.inv(x.T @ x / len(x))


def test_logistic_regression_is_surer_of_classes_of_unlike_spread_than_least_squares() -> None:
    x, labels, gates = skewed()

    def loss(gates: torch.Tensor) -> float:
        return torch.nn.functional.cross_entropy(x @ gates.T, labels).item()

    fitted = fit_gates(x.T @ x / len(x), x, labels, gates)
    assert loss(fitted) < 0.96 * min(loss(t * gates) for t in (0.5, 1.0, 2.0, 4.0, 8.0))
    again = fit_gates(x.T @ x / len(x), x, labels, fitted)
    assert loss(fitted) - loss(again) < 1e-3  # it had converged


def test_logistic_regression_leaves_kept_embeddings_alone() -> None:
    x, labels, gates = skewed()
    fitted = fit_gates(x.T @ x / len(x), x, labels, gates, kept=1)
    assert torch.equal(fitted[0], gates[0])
    assert not torch.allclose(fitted[1], gates[1], atol=1e-2)


def test_a_sample_of_chunks_has_every_type_of_text_in_its_share() -> None:
    """Three quarters of the chunks have one type, in random order."""
    generator = torch.Generator().manual_seed(0)
    kinds = (torch.rand(256, generator=generator) < 0.25).long()
    vectors = 6 * torch.nn.functional.one_hot(kinds, WIDTH) + torch.randn(256, WIDTH, generator=generator)
    for seed in range(20):
        drawn = stratified(vectors, 16, torch.Generator().manual_seed(seed))
        assert len(set(drawn)) == 16
        assert kinds[drawn].sum() == pytest.approx(16 * kinds.float().mean(), abs=2)


def test_text_with_few_chunks_is_taken_whole() -> None:
    assert stratified(torch.randn(3, WIDTH), 16, torch.Generator()) == [0, 1, 2]
