"""The predicted number of replicas gives the standard error that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_ladders import synthetic_ladder

from sdeverify.analysis import estimate_order, replicas_needed
from sdeverify.analysis.verdict import SMALL_LIMIT
from sdeverify.errors import InvalidInputError

FIVE = 2.0 ** -np.arange(0, 2.5, 0.5)
LONG = 2.0 ** -np.arange(5.0)


@pytest.mark.parametrize("path_error", [0.0, 0.03])
def test_the_predicted_factor_brings_the_order_to_the_target(path_error):
    pilot = synthetic_ladder(lambda s: s, FIVE, 0.06, seeds=200, path_standard_error=path_error)
    factor = float(replicas_needed(pilot, target=0.05).factor.median())
    shrink = factor**-0.5
    grown = estimate_order(
        synthetic_ladder(
            lambda s: s,
            FIVE,
            0.06 * shrink,
            seeds=600,
            path_standard_error=path_error * shrink,
            seed=1,
        )
    )
    assert float(grown.order_standard_error.median()) == pytest.approx(0.05, rel=0.15)
    middle = grown.order.quantile([0.25, 0.75])
    assert float(middle[1] - middle[0]) / 1.349 <= 0.05 * 1.15


def test_replicas_follow_from_the_pilots_own_number():
    budget = replicas_needed(synthetic_ladder(lambda s: s, FIVE, 0.06), target=0.05)
    both = max(budget.factor.item(), budget.limit_factor.item())
    assert budget.replicas.item() == pytest.approx(1000 * both, abs=1.0)
    assert bool(budget.resolved.item())


@pytest.mark.parametrize("path_error", [0.0, 0.03])
def test_the_predicted_factor_makes_the_limit_small(path_error):
    """Four standard errors in the share: 1.96 are for the interval, 2.04 for the estimate."""
    pilot = synthetic_ladder(lambda s: s, LONG, 0.06, seeds=200, path_standard_error=path_error)
    shrink = float(replicas_needed(pilot).limit_factor.median()) ** -0.5
    grown = synthetic_ladder(
        lambda s: s,
        LONG,
        0.06 * shrink,
        seeds=400,
        path_standard_error=path_error * shrink,
        seed=1,
    )
    small = estimate_order(grown).limit_share < SMALL_LIMIT
    assert 370 <= int(small.sum()) < 400


def test_what_the_integrator_left_is_shown_beside_the_error():
    pilot = synthetic_ladder(lambda s: s, LONG, 0.001, residual=0.08)
    assert replicas_needed(pilot).residual_share.item() == pytest.approx(0.08, rel=0.01)


def test_a_pilot_of_noise_says_that_its_factor_is_a_guess():
    assert not replicas_needed(synthetic_ladder(lambda s: 0 * s, FIVE, 1.0)).resolved.item()


def test_the_paths_share_of_the_variance_tells_which_side_to_grow():
    def share(path_error):
        ladder = synthetic_ladder(lambda s: s, FIVE, 0.02, path_standard_error=path_error)
        return replicas_needed(ladder).path_share.item()

    assert share(0.0) == 0.0
    assert 0.0 < share(0.02) < share(0.1) < 1.0


def test_room_for_a_second_term_costs_more():
    pilot = synthetic_ladder(lambda s: s, FIVE, 0.02)
    one, two = (replicas_needed(pilot, terms=t).factor.item() for t in (1, 2))
    assert two > 1.2 * one


def test_budgets_that_make_no_sense_are_refused():
    pilot = synthetic_ladder(lambda s: s, FIVE, 0.02)
    with pytest.raises(InvalidInputError, match="positive"):
        replicas_needed(pilot, target=0.0)
    with pytest.raises(InvalidInputError, match="need 3 rungs"):
        replicas_needed(synthetic_ladder(lambda s: s, [1.0, 0.5], 0.02), terms=2)
    with pytest.raises(InvalidInputError, match="sampled"):
        replicas_needed(synthetic_ladder(lambda s: s, FIVE, 0.0))
