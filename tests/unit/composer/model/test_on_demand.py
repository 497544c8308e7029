"""Weights that are computed on demand give the model that has them as parameters, in every family."""

from __future__ import annotations

from collections.abc import Mapping

import pico
import pytest
import torch

from composer import resources
from composer.errors import RecipeError
from composer.mix import opening
from composer.model.on_demand import OnDemandLinear, compute_on_demand
from composer.resources import memory_limit, parse_memory
from composer.tensors import weights as weights_module
from composer.tensors.weights import Added, Blend, Mean, Stored, Weight
from registry.checkpoints.families import FAMILIES

IDS = torch.tensor([[5, 6, 7, 5], [9, 8, 7, 6]])


def blended(family: str) -> tuple[dict, dict[str, Weight]]:
    """A configuration of the family, and weights halfway between two models of it."""
    first, second = (pico.pico_model(family, seed=seed) for seed in (1, 2))
    ends = dict(second.named_parameters())
    config = {k: v for k, v in first.config.to_dict().items() if k not in ("architectures", "dtype")}
    between = {
        name: Blend(Stored(p.data.bfloat16()), Stored(ends[name].data.bfloat16()), 0.7)
        for name, p in first.named_parameters()
    }
    return config, between


def logits(config: Mapping, weights: Mapping[str, Weight], limit: int | None, at_once: int) -> torch.Tensor:
    """The second of two passes of a model that was opened with so much memory."""
    with pytest.MonkeyPatch.context() as patch, memory_limit(limit or 2**40), torch.no_grad():
        patch.setattr(opening, "COMPUTED_AT_ONCE", at_once)
        model = opening.build_dense(dict(config), weights, torch.float32)
        assert bool(on_demand_layers(model)) == (at_once == 0)
        for _ in range(2):
            found = model(input_ids=IDS).logits
        assert all((layer.kept is None) == (limit == 1) for layer in on_demand_layers(model))
    return found


def on_demand_layers(model: torch.nn.Module) -> list[OnDemandLinear]:
    return [layer for layer in model.modules() if isinstance(layer, OnDemandLinear)]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_computed_on_demand_kept_or_not_give_the_same_model(family, monkeypatch):
    monkeypatch.setattr(weights_module, "PIECE", 100)
    config, weights = blended(family)
    whole = logits(config, weights, None, at_once=2**30)
    torch.testing.assert_close(logits(config, weights, None, at_once=0), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(config, weights, 1, at_once=0), whole, rtol=1e-5, atol=1e-5)


def test_a_few_inputs_pass_through_both_ends_of_a_blend():
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(20, 6, generator=generator) for _ in range(2))
    blend = Blend(Stored(start), Stored(end), 0.25)
    x = torch.randn(3, 6, generator=generator)
    torch.testing.assert_close(blend.product(x, slice(5, 9)), x @ torch.lerp(start, end, 0.25)[5:9].T)


def test_gradients_pass_through_a_weight_that_is_not_kept(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    start, end, x = (torch.randn(*shape, generator=generator) for shape in ((20, 6), (20, 6), (2, 3, 6)))
    monkeypatch.setattr(weights_module, "PIECE", 40)
    found = []
    for limit in (2**40, 1):
        layer = torch.nn.Linear(6, 20, bias=False)
        compute_on_demand(layer, "weight", Blend(Stored(start), Stored(end), 0.25), torch.float32)
        leaf = x.clone().requires_grad_(True)
        with memory_limit(limit):
            layer(leaf).square().sum().backward()
        assert (layer.kept is None) == (limit == 1)
        found.append(leaf.grad)
    torch.testing.assert_close(found[1], found[0])


def test_a_weight_is_the_same_whole_in_pieces_and_by_index(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    base, other = (torch.randn(20, 6, generator=generator).bfloat16() for _ in range(2))
    a, b = torch.randn(2, 6, generator=generator), torch.randn(20, 2, generator=generator)
    for weight in (
        Stored(base),
        Blend(Stored(base), Stored(other), 1.25),
        Mean([Stored(base), Stored(other)]),
        Added(Stored(base), a, b),
    ):
        whole = weight.value(torch.float32)
        picked = torch.tensor([3, 19, 3])
        assert torch.equal(weight.rows(picked, torch.float32), whole[picked])
        monkeypatch.setattr(weights_module, "PIECE", 13)
        assert torch.equal(weight.value(torch.float32), whole)
        monkeypatch.undo()


def test_weights_use_half_of_the_memory_and_free_it_with_their_layer():
    class Layer:
        pass

    first, second = Layer(), Layer()
    with memory_limit(parse_memory("6 GiB")):
        assert resources.keep(first, 2 * 2**30)
        assert not resources.keep(second, 2 * 2**30)
        del first
        assert resources.keep(second, 2 * 2**30)


@pytest.mark.parametrize("text", ["", "6 apples", "-1G", "0", "G"])
def test_an_unreadable_amount_of_memory_says_how_to_write_one(text):
    with pytest.raises(RecipeError, match="6GiB"):
        parse_memory(text)
