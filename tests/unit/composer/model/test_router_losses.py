"""Router losses: each on a case small enough to check by hand, and over the micro-batches of a step."""

import math

import pytest
import torch

from composer.model.losses import RouterLosses, balance_loss, entropy, guidance_loss, z_loss
from composer.model.selection import Routing, top_k
from composer.training.fine_tune import COLD, HOT, temperature


def routing(probs, chosen):
    probs = torch.tensor(probs)
    return Routing(probs, torch.tensor(chosen)[:, None], probs.amax(dim=1, keepdim=True), probs.log())


EVEN = routing([[0.25] * 4] * 8, [0, 1, 2, 3] * 2)
COLLAPSED = routing([[1.0, 0.0, 0.0, 0.0]] * 8, [0] * 8)
FIRST = routing([[0.8, 0.2]] * 4, [0] * 4)  # a micro-batch of the first domain
SECOND = routing([[0.2, 0.8]] * 4, [1] * 4)  # a micro-batch of the second domain


def test_the_balance_loss_is_one_when_balanced_and_the_number_of_experts_when_one_takes_all():
    assert balance_loss(EVEN, EVEN.counts(), 4).item() == pytest.approx(1)
    assert balance_loss(COLLAPSED, COLLAPSED.counts(), 4).item() == pytest.approx(4)


def test_null_experts_balance_as_their_average():
    # Two experts and two null ones; tokens take 0, 2, 2, 2. f = (1/4, 0, 3/4, 0), averaged over the null ones 3/8.
    probs = [0.4, 0.3, 0.2, 0.1]
    uneven = routing([probs] * 4, [0, 2, 2, 2])
    by_hand = 4 * (0.4 * 1 / 4 + 0.2 * 3 / 8 + 0.1 * 3 / 8)
    assert balance_loss(uneven, uneven.counts(), 2).item() == pytest.approx(by_hand)
    other = routing([probs] * 4, [0, 3, 3, 2])  # which of the null experts does not matter
    assert balance_loss(other, other.counts(), 2).item() == pytest.approx(by_hand)


def test_the_global_batch_lets_each_micro_batch_use_one_expert():
    micro = RouterLosses(1.0, experts=2)
    assert [micro([r])[1].item() for r in (FIRST, SECOND)] == pytest.approx([1.6, 1.6])
    whole = RouterLosses(1.0, experts=2, global_batch=True)
    # After both micro-batches f = (1/2, 1/2): 2 · (1/2 · 0.2 + 1/2 · 0.8) = 1.
    assert [whole([r])[1].item() for r in (FIRST, SECOND)] == pytest.approx([1.6, 1.0])
    whole.begin_step()
    assert whole([SECOND])[1].item() == pytest.approx(1.6)


def test_two_processes_balance_the_rows_of_both_together():
    together = {
        2: torch.tensor([4.0, 4.0]),
        1: torch.tensor([8.0]),
    }  # FIRST has the first expert, SECOND the second
    losses = RouterLosses(1.0, experts=2, total=lambda counts: together[len(counts)])
    # f = (1/2, 1/2), whichever process has which rows.
    assert [losses([r])[1].item() for r in (FIRST, SECOND)] == pytest.approx([1.0, 1.0])


def test_guidance_counts_the_tokens_with_an_expert_of_both_processes():
    four = routing([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1], [0.2, 0.8]], [0, 1, 0, 1])
    rows = torch.tensor([0, 1])
    alone, _ = RouterLosses(guidance=1.0, experts=2)([four], rows)
    # This process has both rows with an expert; the other one has two rows of general text.
    known = iter([torch.tensor(2.0), torch.tensor(2.0)])
    shared, _ = RouterLosses(guidance=1.0, experts=2, total=lambda _: next(known))([four], rows)
    assert (shared / 2).item() == pytest.approx(alone.item()), (
        "the mean of the processes is that over all tokens"
    )


def test_the_z_loss_is_the_mean_squared_log_partition():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(5)]])
    by_hand = (math.log(2) ** 2 + math.log(8) ** 2) / 2
    assert z_loss(top_k(logits, 2, 1)).item() == pytest.approx(by_hand)
    assert z_loss(EVEN._replace(logits=None)).item() == 0


def test_the_entropy_is_that_of_the_probabilities_and_zero_where_one_has_all():
    assert entropy(EVEN).item() == pytest.approx(math.log(4))
    assert entropy(COLLAPSED).item() == 0


def test_guidance_is_the_surprise_at_each_tokens_own_expert_and_leaves_out_general_text():
    four = routing([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1], [0.2, 0.8]], [0, 1, 0, 1])
    by_hand = -(math.log(0.5) + math.log(0.25)) / 2
    assert guidance_loss(four, torch.tensor([0, -1])).item() == pytest.approx(
        by_hand
    )  # two rows of two tokens
    assert guidance_loss(four, torch.tensor([-1, -1])).item() == 0


def test_the_losses_add_up_by_their_factors():
    added, balance = RouterLosses(0.5, 0.25, 0.125, experts=4)([EVEN, COLLAPSED])
    assert balance.item() == pytest.approx(2.5)
    z, h = ((f(EVEN) + f(COLLAPSED)).item() / 2 for f in (z_loss, entropy))
    assert added.item() == pytest.approx(0.5 * 2.5 + 0.25 * z + 0.125 * h)
    assert RouterLosses(experts=4)([EVEN]) == (0.0, None)


def test_dense_to_sparse_cools_over_its_share_of_the_steps_and_then_ends():
    assert temperature(0, 100, 0.5) == HOT
    assert temperature(25, 100, 0.5) == pytest.approx((HOT + COLD) / 2)
    assert COLD < temperature(49, 100, 0.5) < COLD + 0.05
    assert temperature(50, 100, 0.5) is None
    assert temperature(0, 100, 0.0) is None
