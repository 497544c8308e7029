"""The search for a data mix: shares by rule, and the regression's result for a known optimum."""

import numpy as np
import pytest

from composer.training.data import characters, shares
from composer.training.data_mix import best_mixture, draw_mixtures


def test_the_new_domain_gets_half_under_every_rule():
    assert shares({"a": 1.0, "b": 1.0, "c": 1.0}) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert shares({"a": 30.0, "b": 10.0}) == {"a": 0.75, "b": 0.25}
    assert shares({"a": 30.0, "b": 10.0, "new": 500.0}, "new") == {"a": 0.375, "b": 0.125, "new": 0.5}
    assert shares({"new": 3.0}, "new") == {"new": 1.0}


def test_proportional_shares_follow_the_amount_of_text():
    assert shares(characters({"a": ["x" * 5, "x" * 25], "b": ["x" * 10]})) == {"a": 0.75, "b": 0.25}


def test_the_first_mixture_is_the_equal_one_and_all_are_mixtures():
    mixtures = draw_mixtures(3, 8, random_seed=5)
    assert mixtures.shape == (8, 3)
    np.testing.assert_allclose(mixtures[0], 1 / 3)
    np.testing.assert_allclose(mixtures.sum(axis=1), 1)
    np.testing.assert_array_equal(mixtures, draw_mixtures(3, 8, random_seed=5))


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_the_regression_finds_what_each_domain_needs(noise):
    # Loss falls with the root of a domain's share: four times as fast in the first domain as in the others, so
    # that the best shares are as 16 : 1 : 1.
    gains = np.array([0.8, 0.2, 0.2])
    mixtures = draw_mixtures(3, 24, random_seed=0)
    losses = (
        3.0 - gains * np.sqrt(mixtures) + noise * np.random.default_rng(1).standard_normal(mixtures.shape)
    )
    best, predicted, uniform = best_mixture(mixtures, losses, random_seed=0)
    truth = lambda share: (3.0 - gains * np.sqrt(share)).mean()  # noqa: E731
    assert best.sum() == pytest.approx(1)
    assert best[0] > 0.6
    assert truth(best) < truth(np.full(3, 1 / 3))
    assert predicted == pytest.approx(truth(best), abs=0.05)
    assert predicted < uniform
