"""Orders from noisy ladders of known truth: coverage, refutation, and restraint.

Rates are over 1,000 seeds with fixed streams; the bounds are stated beside each. At a true rate of
95%, fewer than 923 hits of 1,000 have probability 1.1e-4; at 2.5%, more than 45 have 1e-4.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from synthetic_ladders import synthetic_ladder

from sdeverify.analysis import estimate_order
from sdeverify.errors import InvalidInputError

SEEDS = 1000
FIVE = 2.0 ** -np.arange(0, 2.5, 0.5)
LONG = 2.0 ** -np.arange(5.0)
FEWEST_COVERED, MOST_ONE_SIDED = 923, 45


def verdicts(order):
    values, counts = np.unique(order.verdict.values.astype(str), return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return [found.get(v, 0) for v in ("supported", "refuted", "inconclusive")]


def resolved(order):
    """Fits whose interval alone supports order 1, whatever the limit of the error may be."""
    return int(((order.order_high >= 1.0) & (order.order_low > 0.5)).sum())


def covered(order, truth):
    return int(((order.order_low <= truth) & (truth <= order.order_high)).sum())


def test_the_stated_bounds_have_the_stated_false_alarm_rates():
    assert stats.binom.cdf(FEWEST_COVERED - 1, SEEDS, 0.95) < 1.5e-4
    assert stats.binom.sf(MOST_ONE_SIDED, SEEDS, 0.025) < 1.5e-4


@pytest.mark.parametrize("true_order", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("path_error", [0.0, 0.02])
def test_the_interval_covers_the_order_of_a_pure_power(true_order, path_error):
    order = estimate_order(
        synthetic_ladder(
            lambda s: s**true_order,
            LONG,
            0.02 * LONG**0.5,
            seeds=SEEDS,
            path_standard_error=path_error,
        )
    )
    assert covered(order, true_order) >= FEWEST_COVERED


def test_a_true_claim_is_supported_and_refuted_no_more_than_its_level_allows():
    for steps, standard_error in ((FIVE, 0.03), (FIVE, 0.003), (LONG, 0.01)):
        order = estimate_order(synthetic_ladder(lambda s: s, steps, standard_error, seeds=SEEDS))
        assert resolved(order) >= 900
        assert verdicts(order)[1] <= MOST_ONE_SIDED
        if standard_error < 0.03:
            assert verdicts(order)[0] >= 900


def test_pure_noise_is_inconclusive():
    """The signal guard lets 1 in 1,000 through; more than 7 of 1,000 has probability 1e-5."""
    for path_error in (0.0, 1.0):
        order = estimate_order(
            synthetic_ladder(
                lambda s: 0.0 * s, FIVE, 1.0, seeds=SEEDS, path_standard_error=path_error
            )
        )
        assert verdicts(order)[2] >= SEEDS - 7


@pytest.mark.parametrize(
    ("truth", "standard_error"),
    [
        (lambda s: 1.0 + 0.0 * s, 0.03),
        (lambda s: 0.5 + 0.5 * s, 0.01),
        (lambda s: -0.2 + 1.2 * s, 0.01),
        (lambda s: 0.3 + s - 0.3 * s**2, 0.01),
        (lambda s: np.sqrt(s), 0.01),
    ],
)
def test_an_error_that_does_not_vanish_fast_enough_is_refuted(truth, standard_error):
    order = estimate_order(synthetic_ladder(truth, LONG, standard_error, seeds=SEEDS))
    supported, refuted, _ = verdicts(order)
    assert supported == 0
    assert refuted >= 950


@pytest.mark.parametrize("standard_error", [0.1, 0.03, 0.01, 0.003])
@pytest.mark.parametrize("rungs", [FIVE, LONG], ids=["five", "long"])
def test_a_constant_error_is_never_turned_into_support_by_a_second_term(standard_error, rungs):
    for constant in (1.0, 0.5):
        order = estimate_order(
            synthetic_ladder(
                lambda s, c=constant: c + (1 - c) * s, rungs, standard_error, seeds=300
            )
        )
        assert verdicts(order)[0] == 0


@pytest.mark.parametrize(
    "truth",
    [
        lambda s: s * (1 + 0.5 * s),
        lambda s: s * (1 - 0.4 * s),
        lambda s: s / (1 + 0.5 * s),
        lambda s: s * np.exp(0.7 * s),
    ],
    ids=["growing", "shrinking", "geometric", "exponential"],
)
@pytest.mark.parametrize("standard_error", [0.03, 0.01, 0.003])
def test_a_curved_error_of_the_claimed_order_is_hardly_ever_refuted(truth, standard_error):
    """At most 10%: the interval's 2.5%, and terms beyond the third that no fit can know."""
    order = estimate_order(synthetic_ladder(truth, LONG, standard_error, seeds=300))
    assert verdicts(order)[1] <= 30


def test_a_pure_power_alone_would_refute_a_curved_error_far_too_often():
    truth = synthetic_ladder(lambda s: s / (1 + 0.5 * s), FIVE, 0.01, seeds=SEEDS)
    ladder = truth.assign_attrs(claimed_order=1.0)
    log_slope = np.log(ladder.error[0] / ladder.error[-1]) / np.log(4.0)
    spread = np.hypot(0.01 / ladder.error[0], 0.01 / ladder.error[-1]) / np.log(4.0)
    assert int((log_slope + 1.96 * spread < 1.0).sum()) > 900
    assert verdicts(estimate_order(ladder))[1] <= 80


def test_order_two_that_one_power_sees_as_less_is_found_by_two_terms():
    levels = 2.0 ** np.arange(0, 2.5, 0.5)

    def truth(s):
        return 0.05 * s**2 * (1 - 0.45 * s**2)

    ladder = synthetic_ladder(truth, 1 / levels, 2e-4, seeds=200, claimed_order=2.0)
    order = estimate_order(ladder, spacing=2.0)
    one_power = np.polyfit(np.log(1 / levels), np.log(truth(1 / levels)), 1)[0]
    assert one_power < 1.75
    assert np.all(order.terms == 2)
    assert float(order.order.median()) == pytest.approx(2.0, abs=0.03)
    assert float(order.second_coefficient.median()) == pytest.approx(-0.45, abs=0.02)
    assert covered(order, 2.0) >= 180


def test_in_time_per_step_the_same_ladder_has_order_one():
    levels = 2.0 ** np.arange(0, 2.5, 0.5)
    ladder = synthetic_ladder(
        lambda s: 5 * s * (1 - 45 * s), 0.01 / levels**2, 2e-4, seeds=200, claimed_order=1.0
    )
    order = estimate_order(ladder)
    assert float(order.order.median()) == pytest.approx(1.0, abs=0.02)
    assert float(order.coefficient.median()) == pytest.approx(5.0, rel=0.05)
    assert float(order.second_coefficient.median()) == pytest.approx(-45.0, rel=0.05)
    assert verdicts(order)[0] >= 180


def without_shared_path(ladder):
    """The ladder as if every rung had a path of its own."""
    return ladder.assign(
        error_covariance=ladder.error_covariance * (ladder.rung == ladder.rung_bis)
    )


def test_the_covariance_of_a_shared_path_resolves_an_order_that_variances_alone_cannot():
    ladder = synthetic_ladder(lambda s: s, LONG, 0.002, seeds=SEEDS, path_standard_error=0.35)
    assert covered(estimate_order(ladder), 1.0) >= FEWEST_COVERED
    assert resolved(estimate_order(ladder)) >= 850
    assert resolved(estimate_order(without_shared_path(ladder))) <= 150


def test_without_the_covariance_a_shared_paths_noise_would_refute_a_correct_sde():
    """With it, the signal guard's 1 in 1,000; more than 14 of 4,000 has probability 2e-5."""
    ladder = synthetic_ladder(lambda s: 0.0 * s, LONG, 0.05, seeds=4000, path_standard_error=1.0)
    assert verdicts(estimate_order(ladder))[1] <= 14
    assert verdicts(estimate_order(without_shared_path(ladder)))[1] >= 60


def test_an_error_whose_leading_term_vanishes_is_not_refuted():
    order = estimate_order(synthetic_ladder(lambda s: s**2, FIVE, 0.005, seeds=SEEDS))
    supported, refuted, _ = verdicts(order)
    assert supported >= 950
    assert refuted <= 10


def test_the_integrators_residue_stops_a_verdict_that_it_could_explain():
    def biased(s):
        return s + 0.3

    blind = estimate_order(synthetic_ladder(biased, FIVE, 0.01, seeds=100))
    assert verdicts(blind)[1] >= 95
    aware = estimate_order(synthetic_ladder(biased, FIVE, 0.01, seeds=100, residual=0.3))
    assert verdicts(aware)[1] <= 3
    small = estimate_order(synthetic_ladder(lambda s: s, FIVE, 0.01, seeds=100, residual=0.005))
    assert verdicts(small)[0] >= 85


def test_an_unmeasured_bias_two_rungs_and_no_spread_are_inconclusive_with_their_reason():
    cases = {
        "bias was not measured": synthetic_ladder(lambda s: s, FIVE, 0.01, residual=np.nan),
        "two rungs": synthetic_ladder(lambda s: s, [1.0, 0.5], 0.01),
        "no spread": synthetic_ladder(lambda s: s, FIVE, 0.0),
        "not resolved from sampling noise": synthetic_ladder(lambda s: 0 * s, FIVE, 1.0),
    }
    for reason, ladder in cases.items():
        order = estimate_order(ladder)
        assert order.verdict.item() == "inconclusive"
        assert reason in order.reason.item()


def test_three_rungs_leave_a_test_of_the_curvature_alone_and_an_interval():
    ladder = synthetic_ladder(lambda s: s * (1 - 0.4 * s), [1, 0.5, 0.25], 0.001, seeds=300)
    order = estimate_order(ladder)
    assert np.all(order.degrees_of_freedom.values == 1)  # the plausible curvature's
    assert covered(order, 1.0) >= 275  # 275 or more of 300 at 95%: false alarm 5e-3 at most


def test_an_error_that_no_two_powers_fit_is_inconclusive_unless_far_below_the_claim():
    def wavy(s):
        return s * (1.5 + np.sin(9 * s))

    order = estimate_order(synthetic_ladder(wavy, LONG, 1e-4, seeds=50))
    assert verdicts(order)[2] == 50
    assert "neither" in order.reason.values.ravel()[0]

    def flat(s):
        return 1 + 0.05 * np.sin(9 * s)

    far = estimate_order(synthetic_ladder(flat, LONG, 1e-3, seeds=50))
    assert verdicts(far)[1] == 50


def test_local_slopes_have_the_spread_that_they_state():
    ladder = synthetic_ladder(lambda s: s, FIVE, 0.01, seeds=SEEDS, path_standard_error=0.01)
    order = estimate_order(ladder)
    z = (order.local_slope - 1.0) / order.local_slope_standard_error
    np.testing.assert_allclose(z.std("observable").values, 1.0, atol=0.12)


def test_steps_are_chosen_beforehand_or_by_the_caller():
    ladder = synthetic_ladder(lambda s: s, FIVE, 0.01)
    assert estimate_order(ladder).step.values.tolist() == [40.0]
    with pytest.raises(InvalidInputError, match="compared at the steps"):
        estimate_order(ladder, steps=[39.0])
    with pytest.raises(InvalidInputError, match="takes a ladder"):
        estimate_order(ladder.assign_attrs(kind="weak_error"))


def test_the_estimate_does_not_depend_on_units():
    ladder = synthetic_ladder(lambda s: s * (1 + 0.5 * s), FIVE, 0.002, seeds=20)
    scaled = ladder.copy(deep=True)
    scaled["error"] = ladder.error * 1e-6
    scaled["error_covariance"] = ladder.error_covariance * 1e-12
    scaled = scaled.assign_coords(time_per_step=ladder.time_per_step * 1e-3)
    one, other = estimate_order(ladder), estimate_order(scaled)
    np.testing.assert_allclose(one.order, other.order, atol=1e-5)
    np.testing.assert_allclose(
        one.second_coefficient, 1e-3 * other.second_coefficient, rtol=1e-3, atol=1e-9
    )


@pytest.mark.parametrize("curvature", [0.2, -0.2, 0.4])
@pytest.mark.parametrize("rungs", [2.0 ** -np.arange(4.0), FIVE], ids=["four", "five"])
def test_support_does_not_fall_as_data_grow(curvature, rungs):
    """The share of 200 right SDEs supported: from one size to the next by no more than chance.

    The difference of two shares near 0.9 of 200 each has the standard deviation 0.03: 0.1 is more
    than three, and the last share is above 0.9.
    """

    def truth(s):
        return s * (1 + curvature * s)

    shares = []
    for size in (60, 100, 200, 300, 500, 1000):
        order = estimate_order(synthetic_ladder(truth, rungs, 1 / size, seeds=200))
        shares.append(verdicts(order)[0] / 200)
        assert covered(order, 1.0) >= 175  # at 95%, fewer of 200 have probability 1e-5
    assert np.all(np.diff(shares) > -0.1), shares
    assert shares[-1] > 0.9


@pytest.mark.parametrize("curvature", [0.0, 0.5, -0.5])
def test_the_interval_covers_the_order_of_a_curved_ladder(curvature):
    for size in (30, 100, 300):
        ladder = synthetic_ladder(lambda s: s * (1 + curvature * s), FIVE, 1 / size, seeds=SEEDS)
        assert covered(estimate_order(ladder), 1.0) >= FEWEST_COVERED


def test_two_terms_that_do_not_identify_an_order_do_not_give_one():
    """Errors 0.0092, 0.0050, 0.0028, 0.0014, 0.0007 halve from rung to rung: about order 1."""
    errors = np.array([0.0092, 0.0050, 0.0028, 0.0014, 0.0007])
    for spread in (5e-5, 1e-4, 2e-4, 4e-4):
        ladder = synthetic_ladder(lambda s: np.interp(s, LONG[::-1], errors[::-1]), LONG, spread)
        ladder = ladder.assign(error=ladder.error.copy(data=errors[:, None, None]))
        order = estimate_order(ladder)
        assert 0.8 < order.order.item() < 1.2
        assert order.order_low.item() <= order.order.item() <= order.order_high.item()
        assert order.verdict.item() != "refuted"


def test_what_the_integrator_may_have_left_is_well_below_the_finest_error():
    for residual, support in ((0.01, True), (0.05, False)):
        ladder = synthetic_ladder(lambda s: s, LONG, 0.001, residual=residual)
        order = estimate_order(ladder)
        assert (order.verdict.item() == "supported") == support
    near = synthetic_ladder(lambda s: s, LONG, 0.001, residual=0.04)
    assert "give solve finer substeps" in estimate_order(near).reason.item()
