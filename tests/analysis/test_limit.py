"""The limit of the error: its interval covers, and a constant error is not called support.

Rates are over 1,000 seeds with fixed streams, with the bounds of `test_order`: at a true rate of
95%, fewer than 923 hits of 1,000 have probability 1.1e-4; at 2.5%, more than 45 have 1e-4.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from synthetic_ladders import controlled_order, synthetic_ladder

from sdeverify.analysis import estimate_order, overall_verdict
from sdeverify.analysis.verdict import SMALL_LIMIT
from sdeverify.errors import InvalidInputError

SEEDS, FEWEST_COVERED, MOST_ONE_SIDED = 1000, 923, 45
LONG = 2.0 ** -np.arange(5.0)
FIVE = 2.0 ** -np.arange(0, 2.5, 0.5)


def supported(order):
    return int((order.verdict == "supported").sum())


@pytest.mark.parametrize(
    "rest", [lambda s: s, lambda s: s * (1 - 0.4 * s), lambda s: s / (1 + 0.5 * s)]
)
@pytest.mark.parametrize(("constant", "path_error"), [(0.0, 0.02), (0.1, 0.0), (-0.3, 0.02)])
def test_the_interval_covers_the_limit(rest, constant, path_error):
    order = estimate_order(
        synthetic_ladder(
            lambda s: constant + rest(s), LONG, 0.02, seeds=SEEDS, path_standard_error=path_error
        )
    )
    inside = (order.limit_low <= constant) & (constant <= order.limit_high)
    assert int(inside.sum()) >= FEWEST_COVERED


@pytest.mark.parametrize("standard_error", [0.03, 0.01, 0.003])
@pytest.mark.parametrize("rungs", [FIVE, LONG], ids=["five", "long"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_error_of_the_stated_size_is_supported_no_more_than_its_level_allows(
    standard_error, rungs, sign
):
    def truth(s):
        return sign * SMALL_LIMIT + (1 - sign * SMALL_LIMIT) * s

    order = estimate_order(synthetic_ladder(truth, rungs, standard_error, seeds=SEEDS))
    assert supported(order) <= MOST_ONE_SIDED


def test_a_true_ladder_of_adequate_size_is_supported_and_a_small_one_is_not():
    """Adequate: six standard errors of the limit are less than the share that is excluded."""
    for standard_error, fewest, most in ((0.01, 900, 1000), (0.1, 0, 45)):
        order = estimate_order(synthetic_ladder(lambda s: s, LONG, standard_error, seeds=SEEDS))
        assert fewest <= supported(order) <= most
    open_ = order.reason.values[order.verdict.values == "inconclusive"].astype(str)
    assert any("times the coarsest error is not excluded" in reason for reason in open_)


def test_a_rung_fewer_than_three_leaves_the_limit_open():
    order = estimate_order(synthetic_ladder(lambda s: s, [1.0, 0.5], 0.01))
    assert np.isnan(order.limit.item())
    assert order.limit_p_value.item() == 1.0


def test_what_the_integrator_may_have_left_widens_the_limit():
    plain = estimate_order(synthetic_ladder(lambda s: s, LONG, 0.01))
    left = estimate_order(synthetic_ladder(lambda s: s, LONG, 0.01, residual=0.05))
    assert left.limit.item() == plain.limit.item()
    assert left.limit_low.item() <= plain.limit_low.item() - 0.049
    assert left.limit_high.item() >= plain.limit_high.item() + 0.049
    assert left.verdict.item() == "inconclusive"


def groups(order, size):
    names = order.observable.values
    return [order.sel(observable=names[i : i + size]) for i in range(0, len(names), size)]


@pytest.mark.parametrize("standard_error", [0.03, 0.01])
def test_looking_often_does_not_turn_a_constant_error_into_support(standard_error):
    """250 comparisons of 4 fits at 2.5%: more than 17 supported has probability 1e-4."""
    ladder = synthetic_ladder(
        lambda s: SMALL_LIMIT + (1 - SMALL_LIMIT) * s, LONG, standard_error, seeds=1000
    )
    found = [overall_verdict(g).verdict for g in groups(controlled_order(ladder), 4)]
    assert found.count("supported") <= 17


def together(*ladders):
    named = [
        one.assign_coords(observable=np.array([f"observable {i}"], dtype=object))
        for i, one in enumerate(ladders)
    ]
    options = {"data_vars": "minimal", "coords": "minimal", "compat": "equals", "join": "outer"}
    return xr.concat(named, dim="observable", **options)


def test_a_limit_that_is_not_zero_keeps_other_observables_from_making_support():
    steps = [1, 1 / 2, 1 / 3, 1 / 4]
    good = synthetic_ladder(lambda s: s, steps, 0.004)
    many = synthetic_ladder(lambda s: 1.2 * s - 0.1 * s**2 - 0.1, steps, 0.004, seeds=50, seed=1)
    bad = many.isel(observable=[0])
    assert overall_verdict(controlled_order(together(good))).verdict == "supported"
    assert estimate_order(together(bad)).verdict.item() != "refuted"
    verdict = overall_verdict(controlled_order(together(good, bad)))
    assert verdict.verdict == "inconclusive"
    assert "'observable 1' at step 40 the error tends to" in str(verdict)


def test_data_that_cannot_see_the_noise_do_not_support_an_sde():
    errors = synthetic_ladder(lambda s: s, LONG, 0.01)
    assert overall_verdict(controlled_order(errors, 1.0)).verdict == "supported"
    verdict = overall_verdict(controlled_order(errors, 0.01))
    assert verdict.verdict == "inconclusive"
    assert "the observable does not see the noise" in str(verdict)
    rates = errors.assign_attrs(ladder="learning_rate")
    assert overall_verdict(controlled_order(rates, 0.01)).verdict == "supported"
    own = errors.assign_attrs(ladder="own", tests_noise=True)
    assert overall_verdict(controlled_order(own, 0.01)).verdict == "inconclusive"
    silent = errors.assign_attrs(tests_noise=False)
    assert overall_verdict(controlled_order(silent, 0.01)).verdict == "supported"


def test_the_control_is_not_an_option():
    errors = synthetic_ladder(lambda s: s, LONG, 0.01)
    without = estimate_order(errors)
    assert without.verdict.item() == "supported"
    verdict = overall_verdict(without)
    assert verdict.verdict == "inconclusive"
    assert "without the control" in str(verdict)
    flow = estimate_order(errors.assign(error=errors.error + 1))
    assert overall_verdict(without, flow=flow).verdict == "supported"
    other = flow.assign_coords(observable=np.array(["another"], dtype=object))
    with pytest.raises(InvalidInputError, match="observables and steps"):
        overall_verdict(without, flow=other)


def test_an_observable_that_does_not_see_the_noise_does_not_speak_for_one_that_does():
    """The second sees the noise, and is not resolved: the first's support says nothing of it."""
    blind = synthetic_ladder(lambda s: s, LONG, 0.01)
    seeing = synthetic_ladder(lambda s: 0 * s, LONG, 0.3, seed=2)
    errors = together(blind, seeing)
    flow = errors.assign(error=errors.error + xr.DataArray([0.0, 5.0], dims="observable"))
    order = estimate_order(errors, flow=estimate_order(flow))
    assert order.flow_p_value.values.ravel()[1] < 1e-6
    assert overall_verdict(order).verdict == "inconclusive"
    assert overall_verdict(controlled_order(errors)).verdict == "supported"


def test_the_sentence_counts_what_supports_and_names_what_is_not_resolved():
    resolved = synthetic_ladder(lambda s: s, LONG, 0.01)
    noise = synthetic_ladder(lambda s: 0 * s, LONG, 1.0, seed=3)
    verdict = overall_verdict(controlled_order(together(resolved, noise)))
    assert verdict.verdict == "supported"
    assert verdict.unresolved == ("observable 1",)
    assert "1 of 2 fits support it" in str(verdict)
    assert "of the coarsest error is excluded, that is an error of the temperature" in str(verdict)
    assert str(verdict).endswith("Not resolved: observable 1.")
