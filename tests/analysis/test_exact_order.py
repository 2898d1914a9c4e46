"""Orders of errors without sampling noise, among them the published table of the circle problem."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sdeverify.analysis import estimate_order, ladder, overall_verdict
from sdeverify.analysis.exact_order import exact_order, limit_of

HALVED = np.array([0.2, 0.1, 0.05, 0.025])
TABLE = {
    "order 1": ([0.0171626, 0.00919174, 0.00473673, 0.002402], 1.0),
    "order 1, sin 2x": ([0.0256889, 0.0108528, 0.00496314, 0.00237034], 1.0),
    "order 1, exp cos x": ([0.0388018, 0.020584, 0.0105697, 0.00535159], 1.0),
    "order 2": ([3.8112e-4, 8.9875e-5, 2.0287e-5, 4.73318e-6], 2.0),
    "order 2, sin 2x": ([1.13371e-2, 2.83676e-3, 7.05314e-4, 1.75675e-4], 2.0),
}


def exact_ladder(error, steps=HALVED, bound=1e-12, claimed=1.0):
    rungs = [
        xr.Dataset(
            {
                "error": (("step", "observable"), [[e]]),
                "bound": (("step", "observable"), [[bound]]),
            },
            coords={
                "step": [2.0],
                "time": ("step", [2.0]),
                "observable": np.array(["cos x"], dtype=object),
            },
            attrs={"time_per_step": s},
        )
        for e, s in zip(error, steps, strict=True)
    ]
    return ladder(rungs, "learning_rate", claimed)


@pytest.mark.parametrize("name", TABLE)
def test_published_errors_have_the_order_of_their_equation(name):
    error, claimed = TABLE[name]
    order = estimate_order(exact_ladder(error, claimed=claimed))
    assert order.verdict.item() == "supported"
    assert order.order.item() == pytest.approx(claimed, abs=0.06)
    assert order.order_low.item() <= claimed <= order.order_high.item()
    assert order.terms.item() == 0
    assert str(overall_verdict(order)).startswith("Supported")


def test_order_one_does_not_pass_for_order_two():
    error, _ = TABLE["order 1"]
    order = estimate_order(exact_ladder(error, claimed=2.0))
    assert order.verdict.item() == "refuted"
    assert overall_verdict(order).verdict == "refuted"


def test_an_error_that_grows_from_rung_to_rung_is_refuted_before_it_is_asymptotic():
    """Levels that amplify the noise too much: slopes 0.33, -0.45, -0.75 on their way to -1."""
    error = [0.0232, 0.0195, 0.0246, 0.0375]
    order = estimate_order(exact_ladder(error))
    assert order.verdict.item() == "refuted"
    assert order.order_high.item() < 0.5
    falling = exact_order(HALVED, np.array(error)[::-1], np.zeros(4), 1.0)
    assert "not yet asymptotic" in falling.unresolved


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_series_of_order_one_are_not_refuted_before_they_are_asymptotic(size):
    """At most 4 of 2,000 random series, fixed seed; k-th term over the first: N(0, size^(2k))."""
    k, relative = np.arange(9), HALVED / HALVED[0]
    terms = np.random.default_rng(0).normal(size=(2000, 9)) * size**k
    terms[:, 0] = 1.0
    errors = terms @ relative ** (k[:, None] + 1)
    fits = [exact_order(HALVED, error, np.zeros(4), 1.0) for error in errors]
    assert sum(not fit.unresolved and fit.high < 1.0 for fit in fits) <= 4
    assert sum("not yet asymptotic" in fit.unresolved for fit in fits) > 200


@pytest.mark.parametrize("constant", [1e-3, -1e-3, 2e-3, 1e-2])
def test_an_error_that_tends_to_a_constant_is_refuted_with_its_limit(constant):
    error = constant + 0.1 * HALVED - 0.2 * HALVED**2 + 0.3 * HALVED**3
    order = estimate_order(exact_ladder(error))
    assert order.verdict.item() == "refuted"
    assert order.order.item() == 0.0
    assert order.limit.item() == pytest.approx(constant, rel=0.05)


@pytest.mark.parametrize(("rungs", "most"), [(3, 20), (4, 4)])
def test_series_of_order_one_are_not_refuted_and_half_an_order_always_is(rungs, most):
    """4,000 random series whose leading coefficients go down to 0: at most `most` refuted."""
    rng = np.random.default_rng(4)
    steps = HALVED[:rungs]
    c = rng.uniform(-1, 1, (4_000, 6)) * 2.0 ** np.arange(6)
    errors = (steps[:, None] ** np.arange(1, 7)) @ c.T
    bound = np.full(rungs, 1e-14)
    found = [exact_order(steps, e, bound, 1.0) for e in errors.T]
    assert sum(not f.unresolved and f.high < 1.0 for f in found) <= most
    assert sum(not f.unresolved and f.low > 0.5 for f in found) > 1_500
    for a, b in rng.uniform(0.5, 1.5, (50, 2)):
        f = exact_order(steps, a * np.sqrt(steps) * (1 + 0.3 * b * steps), bound, 1.0)
        assert not f.unresolved
        assert f.high < 1.0


def test_errors_near_their_numerical_bound_are_unresolved():
    error = 1e-6 * HALVED
    for bound, reason in ((1e-9, "exceeds 1%"), (1e-6, "no error exceeds")):
        order = estimate_order(exact_ladder(error, bound=bound))
        assert order.verdict.item() == "inconclusive"
        assert reason in order.reason.item()
    two = estimate_order(exact_ladder(error[:2], HALVED[:2]))
    assert "three rungs" in two.reason.item()


def test_a_change_of_sign_among_the_finest_rungs_is_not_an_order():
    error = HALVED * (HALVED - 0.07)
    assert "sign" in exact_order(HALVED, error, np.full(4, 1e-12), 1.0).unresolved


def test_an_exact_side_beside_a_sampled_one_is_fitted_with_its_bound():
    exact = exact_ladder(0.1 * HALVED, bound=1e-9)
    spread = xr.full_like(exact.error, 1e-4)
    same = exact.rung == exact.rung_bis
    covariance = (spread**2 * same).transpose("rung", "rung_bis", "step", "observable")
    mixed = estimate_order(exact.assign(standard_error=spread, error_covariance=covariance))
    assert mixed.terms.item() == 2
    assert mixed.verdict.item() == "supported"


def test_three_rungs_do_not_support_an_order_where_a_limit_may_be_left():
    steps = HALVED[:3]
    error = 0.3 * steps + 0.02 * steps**2
    bound = np.full(3, 1e-12)
    assert exact_order(steps, error, bound, 1.0).unresolved == ""
    with_limit = exact_order(steps, error + 0.0015, bound, 1.0)
    assert "three rungs cannot tell" in with_limit.unresolved
    four = exact_order(HALVED, 0.3 * HALVED + 0.02 * HALVED**2 + 0.0015, np.full(4, 1e-12), 1.0)
    assert four.order == 0.0
    assert four.limit == pytest.approx(0.0015, rel=0.01)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.04, -0.01])
def test_a_resolved_limit_refutes_whatever_its_share_of_the_errors(share):
    error = HALVED - 0.05 * HALVED**2 + 0.01 * HALVED**3
    constant = share * error[-1]
    assert exact_order(HALVED, error, np.full(4, 1e-12), 1.0).high >= 1.0
    exact = exact_order(HALVED, error + constant, np.full(4, 1e-12), 1.0)
    assert (exact.order, exact.high) == (0.0, 0.0)
    assert exact.limit == pytest.approx(constant, rel=0.01)


def test_a_last_term_that_passes_through_zero_does_not_make_a_limit():
    """Without a cubic term a rung left out changes nothing, and the quartic looks constant."""
    error = HALVED - 2 * HALVED**2 + 0.0 * HALVED**3 + 8 * HALVED**4
    limit, uncertainty = limit_of(HALVED, error, np.zeros(4), 1.0)
    assert abs(limit) < uncertainty
    assert exact_order(HALVED, error, np.full(4, 1e-14), 1.0).high >= 1.0


def test_what_three_rungs_or_a_coarse_ladder_leave_open_is_not_supported():
    """0.6 s^2 beside 0.1 s: the limit is known to no more than a tenth of the coarsest error."""
    steps = np.array([0.9, 0.8, 0.7, 0.6])
    order = estimate_order(exact_ladder(steps + 0.8 * steps**2 + steps**3, steps))
    assert order.verdict.item() == "inconclusive"
    assert order.limit_share.item() > 0.1
