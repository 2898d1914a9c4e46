"""Verdicts over many fits keep their level; accessors refuse what is not resolved."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from synthetic_ladders import controlled_order, synthetic_ladder

from sdeverify.analysis import estimate_order, order_or_raise, overall_verdict
from sdeverify.analysis.verdict import interval_verdict
from sdeverify.errors import InconclusiveError, InvalidInputError

FIVE = 2.0 ** -np.arange(0, 2.5, 0.5)
LONG = 2.0 ** -np.arange(5.0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.9, "refuted"),
        (0.6, 1.1, "supported"),
        (1.8, 2.2, "supported"),
        (0.4, 1.1, "inconclusive"),
        (0.6, np.inf, "supported"),
        (-np.inf, 0.5, "refuted"),
        (-np.inf, np.inf, "inconclusive"),
    ],
)
def test_the_verdict_on_an_interval_follows_the_rule(low, high, verdict):
    assert interval_verdict(low, high, 1.0) == verdict


def groups(order, size):
    names = order.observable.values
    return [order.sel(observable=names[i : i + size]) for i in range(0, len(names), size)]


def test_a_true_claim_is_seldom_refuted_however_many_fits_are_looked_at():
    """250 comparisons of 8 fits at 2.5%: more than 17 refuted has probability 1e-4."""
    order = controlled_order(
        synthetic_ladder(lambda s: s, LONG, 0.01, seeds=2000, path_standard_error=0.01)
    )
    assert int((order.verdict == "refuted").sum()) > 17
    found = [overall_verdict(g).verdict for g in groups(order, 8)]
    assert stats.binom.sf(17, 250, 0.025) < 2e-4
    assert found.count("refuted") <= 17
    assert found.count("supported") >= 230


def test_looking_at_many_faulty_fits_does_not_find_support_by_chance():
    order = controlled_order(synthetic_ladder(lambda s: 1 - 0.2 * s, FIVE, 0.3, seeds=2000), 5.0)
    found = [overall_verdict(g).verdict for g in groups(order, 8)]
    assert found.count("supported") <= 17


def test_a_single_faulty_observable_refutes_the_whole():
    good = synthetic_ladder(lambda s: s, FIVE, 0.01, seeds=7)
    bad = synthetic_ladder(lambda s: 1.0 + 0 * s, FIVE, 0.01, seed=1)
    bad = bad.assign_coords(observable=np.array(["faulty"], dtype=object))
    verdict = overall_verdict(
        estimate_order(
            xr.concat(
                [good, bad],
                dim="observable",
                data_vars="minimal",
                coords="minimal",
                compat="equals",
                join="outer",
            )
        )
    )
    assert verdict.verdict == "refuted"
    assert verdict.fits == 8
    assert "'faulty' at step 40" in verdict.text


def test_accuracy_is_shown_but_not_judged():
    ladder = synthetic_ladder(lambda s: 1.0 + 0 * s, FIVE, 0.01)
    order = estimate_order(ladder.assign_coords(observable=np.array(["accuracy"], dtype=object)))
    assert overall_verdict(order, exclude=()).verdict == "refuted"
    with pytest.raises(InvalidInputError, match="nothing is left"):
        overall_verdict(order)


def test_an_inconclusive_comparison_says_why():
    order = estimate_order(synthetic_ladder(lambda s: 0 * s, FIVE, 1.0, seeds=4))
    verdict = overall_verdict(order)
    assert verdict.verdict == "inconclusive"
    assert "not resolved from sampling noise" in str(verdict)
    assert verdict.inconclusive == 4


def test_an_order_is_handed_out_only_when_resolved():
    resolved = estimate_order(synthetic_ladder(lambda s: s, FIVE, 0.01))
    assert order_or_raise(resolved, "seed 0") == pytest.approx(1.0, abs=0.1)
    assert order_or_raise(resolved, "seed 0", 40.0) == order_or_raise(resolved, "seed 0")
    noise = estimate_order(synthetic_ladder(lambda s: 0 * s, FIVE, 1.0))
    with pytest.raises(InconclusiveError, match="not resolved") as caught:
        order_or_raise(noise, "seed 0")
    assert float(caught.value.estimate["order"]) == noise.order.item()


def test_only_order_datasets_are_judged():
    with pytest.raises(InvalidInputError, match="estimate_order"):
        overall_verdict(xr.Dataset())


def test_the_fit_that_is_shown_has_the_narrowest_interval_of_those_that_make_the_verdict():
    order = controlled_order(synthetic_ladder(lambda s: s, LONG, 0.01, seeds=7))
    verdict = overall_verdict(order)
    fits = order.stack(fit=("observable", "step"))
    width = (fits["order_high"] - fits["order_low"]).values
    assert verdict.verdict == "supported"
    assert width[verdict.deciding] == width[fits["verdict"].values == "supported"].min()
    narrow = order.copy(deep=True)
    narrow["verdict"][0] = "inconclusive"
    narrow["order_low"][0] = narrow["order_high"][0] = 1.0
    again = overall_verdict(narrow)
    assert again.verdict == "supported"
    assert again.deciding == verdict.deciding or verdict.deciding == 0
    assert again.deciding != 0


def test_shares_above_all_are_written_as_whole_percentages():
    order = controlled_order(synthetic_ladder(lambda s: s, LONG, 0.01), 5.0)
    hot = overall_verdict(order.assign(flow_share=order["flow_share"] * 0 + 1.3))
    assert "an error of the temperature of 130%;" in hot.text


def test_support_is_shown_where_the_error_keeps_its_sign_and_the_temperature_is_known():
    order = controlled_order(synthetic_ladder(lambda s: s, LONG, 0.01, seeds=7))
    shown = overall_verdict(order).deciding
    warm = order.copy(deep=True)
    fits = warm["flow_share"].stack(fit=("observable", "step"))
    warm["flow_share"] = fits.where(np.arange(fits.size) != shown, 0.4).unstack("fit")
    crossing = order.copy(deep=True)
    fits = crossing["second_coefficient"].stack(fit=("observable", "step"))
    crossing["second_coefficient"] = fits.where(np.arange(fits.size) != shown, -3.0).unstack("fit")
    for changed in (warm, crossing):
        verdict = overall_verdict(changed)
        assert verdict.verdict == "supported"
        assert verdict.deciding != shown
