"""Masking experts at inference: only the selected ones run, and masking is undone afterwards."""

import pico
import pytest
import torch

from composer.errors import RecipeError
from composer.mix.masking import mask
from composer.model.modeling import NexusConfig, NexusForCausalLM


@pytest.fixture(scope="module")
def model():
    dense = pico.pico_model("llama", initializer_range=0.2)
    config = NexusConfig(
        text_config=dense.config.to_dict(),
        experts=["a@1", "b@1", "c@1"],
        ffn_widths=[48] * 3,
        domain_dim=8,
        num_experts_per_tok=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = NexusForCausalLM(config).eval()
    for mixture in built.mixtures():
        mixture.router.domains.copy_(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)))
    return built


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 260, (1, 17), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_only_active_experts_are_chosen_also_where_fewer_are_active_than_a_token_takes(model, ids):
    for active in ([1], [0, 2]):
        with mask(model, active):
            model(ids)
        for mixture in model.mixtures():
            assert set(mixture.routing.chosen.flatten().tolist()) <= set(active)
            assert (mixture.routing.weights > 0).all()


@torch.inference_mode()
def test_the_mask_ends_with_its_block_even_when_that_fails(model, ids):
    before = model(ids).logits
    with pytest.raises(ZeroDivisionError), mask(model, [1]):
        masked = model(ids).logits
        raise ZeroDivisionError
    assert not torch.allclose(masked, before)
    assert torch.equal(model(ids).logits, before)


@torch.inference_mode()
def test_masking_nothing_changes_nothing(model, ids):
    before = model(ids).logits
    for nothing in (None, [0, 1, 2]):
        with mask(model, nothing):
            assert torch.equal(model(ids).logits, before)


def test_masking_every_expert_is_refused(model):
    with pytest.raises(RecipeError, match="at least one"), mask(model, []):
        raise AssertionError("the block must not run")
