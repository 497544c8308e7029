"""Selection of experts: every equation on a case small enough to check by hand."""

import pytest
import torch

from composer.errors import RecipeError
from composer.mix.recipe import Recipe
from composer.model.routers import router_class
from composer.model.selection import TRACE, dense_to_sparse, top_k, top_p
from composer.variants import ROUTERS

# Probabilities .5 .3 .15 .05 and, in another order, .1 .6 .2 .1
PROBS = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.6, 0.2, 0.1]])
LOGITS = PROBS.log()
EMPTY = 4


def test_top_k_takes_the_most_probable_with_their_probabilities_as_weights():
    routing = top_k(LOGITS, experts=4, k=2)
    assert routing.chosen.tolist() == [[0, 1], [1, 2]]
    torch.testing.assert_close(routing.weights, torch.tensor([[0.5, 0.3], [0.6, 0.2]]))


@pytest.mark.parametrize(
    ("threshold", "chosen"),
    [
        (0.4, [[0], [1]]),
        (0.55, [[0, 1], [1]]),
        (0.7, [[0, 1], [1, 2]]),
        (0.92, [[0, 1, 2], [1, 2, 0, 3]]),
        (1.0, [[0, 1, 2, 3], [1, 2, 0, 3]]),
    ],
)
def test_top_p_takes_as_few_as_reach_the_threshold(threshold, chosen):
    routing = top_p(LOGITS, experts=4, threshold=threshold)
    taken = [[i for i in row if i != EMPTY] for row in routing.chosen.tolist()]
    assert [sorted(row) for row in taken] == [sorted(row) for row in chosen]
    for row, probs, weights in zip(chosen, PROBS, routing.weights, strict=True):
        torch.testing.assert_close(weights.sum(), probs[row].sum())
    assert (routing.weights[routing.chosen == EMPTY] == 0).all()


def test_a_null_expert_takes_a_place_and_no_weight():
    # Columns 2 and 3 are null: token 0 selects experts 0 and 1, token 1 selects expert 1 and the null expert 2.
    routing = top_k(LOGITS, experts=2, k=2)
    assert routing.chosen.tolist() == [[0, 1], [1, 2]]
    torch.testing.assert_close(routing.weights, torch.tensor([[0.5, 0.3], [0.6, 0.0]]))
    assert routing.counts().tolist() == [1, 2, 1, 0]


def test_empty_places_are_not_counted():
    assert top_p(LOGITS, experts=4, threshold=0.55).counts().tolist() == [1, 2, 0, 0]


def test_a_masked_expert_is_taken_by_no_threshold():
    masked = LOGITS.masked_fill(torch.tensor([False, True, False, False]), float("-inf"))
    for routing in (top_p(masked, 4, 1.0), dense_to_sparse(masked, 4, 2.0)):
        assert routing.counts()[1] == 0
        torch.testing.assert_close(routing.weights.sum(dim=1), torch.ones(2))


def test_dense_routing_is_dense_when_hot_and_sparse_when_cold():
    logits = LOGITS[:1].expand(4000, -1)
    torch.manual_seed(0)
    hot, cold = dense_to_sparse(logits, 4, temperature=2.0), dense_to_sparse(logits, 4, temperature=0.05)
    assert (hot.chosen != EMPTY).float().mean() > 0.95
    assert (cold.chosen != EMPTY).sum(dim=1).float().mean() < 1.5
    assert (hot.weights[hot.chosen != EMPTY] > TRACE).all()
    # With Gumbel noise, each expert is first with its own probability.
    firsts = torch.bincount(cold.probabilities.argmax(dim=1), minlength=4) / 4000
    torch.testing.assert_close(firsts, PROBS[0], atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", sorted(ROUTERS))
def test_a_null_expert_begins_as_the_average_expert_and_learns_from_there(kind):
    router = router_class(kind)(6, 4, 3, null_experts=2)
    router.reset_parameters(torch.Generator().manual_seed(0))
    router.domains = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    if router.reads_context:
        router.context = torch.zeros(5, len(router.readout))
    logits = router(x)
    assert logits.shape == (5, 5)
    torch.testing.assert_close(logits[:, 3:], logits[:, :3].mean(dim=1, keepdim=True).expand(-1, 2))
    router.null.data[1] = 1.0
    torch.testing.assert_close(router(x)[:, 4], logits[:, 4] + x.sum(dim=1))


def test_a_router_without_null_experts_keeps_the_names_that_it_had():
    for kind in ROUTERS:
        assert "null" not in router_class(kind)(6, 4, 3).state_dict(), kind


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 2, "top_p": 0.5},
        {"null_experts": 1},
        {"top_p": 1.5},
        {"router": "random", "training": {"train": "router", "tokens": 10}},
    ],
)
def test_a_recipe_that_chooses_experts_in_two_ways_or_none_is_refused(settings):
    with pytest.raises(RecipeError, match=next(iter(settings))):
        Recipe.parse({"name": "x", "seed": "s", "experts": ["a", "b"], **settings})
