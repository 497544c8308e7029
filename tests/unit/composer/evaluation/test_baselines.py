"""Baselines of a mix: routing whole requests to dense experts, and DUME."""

from __future__ import annotations

import pico
import pytest
import torch

from composer.errors import RecipeError
from composer.evaluation.baselines import btm, dume
from composer.model.modeling import NexusConfig, NexusForCausalLM, forced
from registry.domains.embedders import load_embedder

DOMAINS = ("code", "law", "cooking")


@pytest.fixture(scope="module")
def tokenizer():
    return pico.pico_tokenizer()


@pytest.fixture(scope="module")
def rows(tokenizer):
    """Six rows [6, 32] of each domain, by the domain's index."""

    def of(domain):
        ids = tokenizer(" ".join(pico.domain_documents(domain)))["input_ids"][: 6 * 32]
        return torch.tensor(ids).view(6, 32)

    return {place: of(domain) for place, domain in enumerate(DOMAINS)}


@pytest.fixture(scope="module")
def means():
    embedder = load_embedder("hashing:64")
    return torch.stack(
        [torch.from_numpy(embedder.encode(pico.domain_documents(domain)).mean(0)) for domain in DOMAINS]
    ).numpy()


def test_a_request_goes_to_the_expert_whose_domain_is_nearest(tokenizer, rows, means):
    embedder = load_embedder("hashing:64")
    mixed = torch.stack([rows[place][place] for place in (2, 0, 1, 0)])
    assert btm.nearest(tokenizer, embedder, means, mixed) == [2, 0, 1, 0]


def test_only_the_beginning_of_a_request_decides(tokenizer, rows, means):
    embedder = load_embedder("hashing:64")
    changing = torch.cat([rows[1][:2], rows[2][:2]], dim=1)
    assert btm.nearest(tokenizer, embedder, means, changing, first=32) == [1, 1]


def test_a_long_mean_is_no_nearer_than_a_short_one(tokenizer, rows, means):
    embedder = load_embedder("hashing:64")
    means = means * [[100.0], [1.0], [0.01]]
    assert btm.nearest(tokenizer, embedder, means, rows[2]) == [2] * 6


def test_every_request_has_the_logits_of_the_dense_model_that_it_went_to(rows):
    models = [pico.pico_model("llama", seed=seed) for seed in range(3)]
    opened = []

    def opener(place):
        return lambda: opened.append(place) or models[place]

    router = btm.RequestRouter([opener(place) for place in range(3)], lambda ids: [2, 0, 2, 0])
    with torch.inference_mode():
        logits = router(input_ids=rows[0][:4], use_cache=False).logits
        for row, place in enumerate((2, 0, 2, 0)):
            expected = models[place](rows[0][row : row + 1]).logits[0]
            torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=0)
        router(input_ids=rows[0][:4])
    assert sorted(opened) == [0, 2], "an expert is opened once, and only when a request needs it"
    expected = torch.tensor([2, 0, 2, 0]).repeat_interleave(32)
    assert torch.equal(router.choices(), expected.view(1, -1, 1))


def random_mix(combine):
    """Three experts of random weights over a random trunk."""
    config = NexusConfig(
        text_config=pico.pico_model("llama").config.to_dict(),
        experts=[f"{domain}@1" for domain in DOMAINS],
        ffn_widths=[48] * 3,
        domain_dim=8,
        combine=combine,
        router="linear",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NexusForCausalLM(config).eval()


@pytest.fixture(scope="module")
def mix():
    return random_mix("convex")


@pytest.fixture(scope="module")
def sums(mix, rows):
    return dume.collect(mix, rows)


def test_the_sums_are_those_of_the_states_under_the_own_expert(mix, rows, sums):
    seen = []
    hook = mix.mixtures()[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        for place, own in rows.items():
            with forced(mix, place):
                mix(own)
    hook.remove()
    x = torch.cat([s.reshape(-1, s.shape[-1]) for s in seen]).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    y = torch.eye(3, dtype=x.dtype).repeat_interleave(6 * 32, dim=0)
    torch.testing.assert_close(sums[1].second_FF, x.T @ x, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sums[1].own_FN, x.T @ y, atol=1e-4, rtol=1e-5)


def test_a_gate_is_ridge_regression_with_columns_of_length_one(sums):
    gate = dume.solve(sums[0], ridge=0.5)
    size = len(sums[0].second_FF)
    plain = torch.linalg.solve(sums[0].second_FF + 0.5 * torch.eye(size).double(), sums[0].own_FN)
    torch.testing.assert_close(gate.weight_NH.norm(dim=1), torch.ones(3))
    scale = plain[:-1].norm(dim=0)
    torch.testing.assert_close(gate.weight_NH.double(), (plain[:-1] / scale).T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gate.bias_N.double(), plain[-1] / scale, atol=1e-5, rtol=1e-4)


def test_an_expert_is_appended_by_adding_its_sums(mix, rows, sums):
    old, own = dume.collect(mix, {0: rows[0], 1: rows[1]}), dume.collect(mix, {2: rows[2]})
    for together, before, new in zip(sums, old, own, strict=True):
        added = before + new
        torch.testing.assert_close(added.second_FF, together.second_FF)
        torch.testing.assert_close(added.own_FN, together.own_FN)


def test_a_domain_goes_to_its_own_expert_more_than_to_any_other_and_with_weight_one(mix, rows, sums):
    gates = [dume.solve(block) for block in sums]
    with torch.inference_mode(), dume.routed(mix, gates):
        for place, own in rows.items():
            mix(own)
            for mixture in mix.mixtures():
                assert mixture.routing.counts().argmax() == place
                assert (mixture.routing.weights == 1).all()


def test_gates_that_always_name_one_expert_are_that_expert_forced(mix, rows):
    n, width = 3, mix.config.text_config.hidden_size
    always = dume.Gate(torch.zeros(n, width), torch.tensor([0.0, 1.0, 0.0]))
    with torch.inference_mode():
        with dume.routed(mix, [always] * 2):
            found = mix(rows[0]).logits
        with forced(mix, 1):
            torch.testing.assert_close(found, mix(rows[0]).logits)


def test_the_routers_are_back_afterwards(mix, rows):
    always = dume.Gate(torch.zeros(3, 32), torch.tensor([0.0, 1.0, 0.0]))
    with torch.inference_mode():
        before = mix(rows[0]).logits
        with dume.routed(mix, [always] * 2):
            pass
        torch.testing.assert_close(mix(rows[0]).logits, before)


def test_an_additive_mix_is_refused(rows):
    with pytest.raises(RecipeError, match="combine: convex"):
        dume.collect(random_mix("additive"), rows)
