"""The router warm start on synthetic states: what it solves, what it keeps, and what it generalises to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from composer.domains import Domain, Standard
from composer.routers import LinearRouter, NexusRouter
from composer.routers.base import Router
from composer.warmstart import solve
from composer.warmstart.pseudo import k_means, pseudo_domains
from composer.warmstart.states import Observed

HIDDEN, WIDTH, CHUNKS, STATES = 16, 5, 48, 24


def world(seed: int = 0, domains: int = 4, spread: float = 0.5) -> tuple[list[Domain], torch.Tensor]:
    """Domains in embedding space, and the linear map [M, H] that takes a vector to its mean state."""
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


def observed(domains: list[Domain], to_state: torch.Tensor, layers: int = 2) -> Observed:
    """What forward passes over every domain with text would have shown."""
    texts = {j: states_of(d, to_state, seed=j) for j, d in enumerate(domains) if d.has_text}
    flat = {j: x.flatten(0, 1) for j, x in texts.items()}
    second = torch.stack([x.T @ x / len(x) for x in flat.values()]).mean(dim=0)
    states = torch.cat([x[:, :4].flatten(0, 1) for x in texts.values()])
    labels = torch.tensor([j for j, x in texts.items() for _ in range(4 * len(x))])
    sums = torch.cat([x.sum(dim=1) for x in texts.values()])
    return Observed(
        second_LHH=second.expand(layers, -1, -1),
        sums_CLH=sums[:, None].expand(-1, layers, -1),
        counts_C=torch.full((len(sums),), float(STATES)),
        vectors_CM=torch.cat([domains[j].vectors for j in texts]),
        owner_C=torch.tensor([j for j, x in texts.items() for _ in range(len(x))]),
        sample_LSH=states.expand(layers, -1, -1),
        labels_S=labels,
        tokens=0,
    )


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
    solve(routers, observed(domains, to_state), domains, standard, False, torch.Generator().manual_seed(0))
    return routers, standard


def share(router: Router, domain: Domain, to_state: torch.Tensor, expert: int) -> float:
    """The share of new states of a domain that go to an expert."""
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


def test_an_expert_appended_without_any_state_gets_more_than_its_part() -> None:
    """P_r answers for a vector that it was not solved for."""
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
    solve(routers, observed(domains, to_state), domains, standard, True, torch.Generator().manual_seed(0))
    for router, gate in zip(routers, before, strict=True):
        torch.testing.assert_close(router.gate()[:-1], gate, rtol=1e-4, atol=1e-4)
        for j, domain in enumerate(domains):
            assert share(router, domain, to_state, j) > 0.8


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
    solve(routers, observed(members, to_state), members, standard, True, torch.Generator().manual_seed(0))
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


def test_pseudo_domains_part_what_lies_apart() -> None:
    domains, _ = world(domains=3)
    vectors = torch.cat([10 * d.mean + d.vectors for d in domains])
    clusters = k_means(vectors, 3, torch.Generator().manual_seed(1))
    assert all(len(clusters[i * CHUNKS : (i + 1) * CHUNKS].unique()) == 1 for i in range(3))
    for group in pseudo_domains(vectors, torch.Generator().manual_seed(1)):
        assert len(group) >= 3
