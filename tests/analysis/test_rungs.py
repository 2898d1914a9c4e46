"""Ladders: rungs in order, aligned on the SDE's clock, with their full covariance."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_ensembles import chain_of, path_of

from sdeverify.analysis import ladder, weak_error
from sdeverify.errors import InvalidInputError

LEVELS = (1.0, 2.0, 4.0)


@pytest.fixture
def rungs():
    rng = np.random.default_rng(0)
    path = path_of(rng.normal(size=(40, 2, 3, 2)))
    return [
        weak_error(chain_of(rng.normal(size=(40, 3, 2)), time_per_step=0.1 / level), path)
        for level in LEVELS
    ]


def other_path_rung(time_per_step):
    rng = np.random.default_rng(9)
    chain = chain_of(rng.normal(size=(40, 3, 2)), time_per_step=time_per_step)
    return weak_error(chain, path_of(rng.normal(size=(40, 2, 3, 2))))


def test_rungs_that_share_a_path_share_its_variance_and_others_share_nothing(rungs):
    ds = ladder([*rungs, other_path_rung(0.0125)], "svag")
    covariance = ds.error_covariance
    for i in range(4):
        np.testing.assert_allclose(covariance[i, i], ds.standard_error[i] ** 2, rtol=1e-12)
    np.testing.assert_allclose(covariance[0, 2], rungs[0].path_variance, rtol=1e-12)
    np.testing.assert_array_equal(covariance[0, 2], covariance[2, 0])
    assert float(np.abs(covariance[3, :3]).max()) == 0.0


def test_the_coarsest_rung_comes_first_with_its_coordinates(rungs):
    ds = ladder(rungs[::-1], "svag", level=LEVELS[::-1])
    np.testing.assert_allclose(ds.time_per_step, [0.1, 0.05, 0.025])
    np.testing.assert_allclose(ds.level, LEVELS)
    np.testing.assert_array_equal(ds.error[0], rungs[0].error)
    assert ds.attrs["claimed_order"] == 1.0
    assert ds.attrs["label_name"] == "level"


def test_a_learning_rate_ladder_is_aligned_on_time_while_steps_differ(rungs):
    finer = rungs[1].assign_coords(step=2 * rungs[1].step)
    ds = ladder([rungs[0], finer], "learning_rate")
    np.testing.assert_array_equal(ds.step, rungs[0].step)
    np.testing.assert_array_equal(ds.rung_step[1], 2 * ds.rung_step[0])
    assert "label_name" not in ds.attrs


def test_an_exact_rung_needs_only_error_and_bound(rungs):
    exact = [
        r[["error"]].assign(bound=0 * r.error).assign_attrs(time_per_step=s, chain_id="")
        for r, s in zip(rungs, (0.1, 0.05, 0.025), strict=True)
    ]
    ds = ladder(exact, "svag")
    assert float(ds.error_covariance.max()) == 0.0
    with pytest.raises(InvalidInputError, match="'standard_error', or 'bound'"):
        ladder([e.drop_vars("bound") for e in exact], "svag")


def test_ladders_that_cannot_be_are_refused(rungs):
    with pytest.raises(InvalidInputError, match="two rungs or more"):
        ladder(rungs[:1], "svag")
    with pytest.raises(InvalidInputError, match="different time_per_step"):
        ladder(rungs, "svag", time_per_step=[0.1, 0.1, 0.05])
    with pytest.raises(InvalidInputError, match="one value a rung"):
        ladder(rungs, "svag", level=[1, 2])
    with pytest.raises(InvalidInputError, match="one and the same chain"):
        ladder([rungs[0], rungs[0]], "svag", time_per_step=[0.1, 0.05])
    with pytest.raises(InvalidInputError, match="same times"):
        ladder([rungs[0], rungs[1].assign_coords(time=2 * rungs[1].time)], "svag")
    with pytest.raises(InvalidInputError, match="one set of observables"):
        ladder([rungs[0], rungs[1].isel(observable=[0])], "svag")
    with pytest.raises(InvalidInputError, match="with 'error'"):
        ladder([rungs[0], rungs[1].drop_vars("error")], "svag")
    bare = [r.drop_attrs() for r in rungs]
    with pytest.raises(InvalidInputError, match="time_per_step"):
        ladder(bare, "svag")
