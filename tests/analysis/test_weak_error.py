"""Weak errors: values, uncertainties, the integrator's bias, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_ensembles import axes, chain_of, path_of

from sdeverify.analysis import weak_error
from sdeverify.analysis.datasets.schema import exact_dataset
from sdeverify.errors import InvalidInputError

STEPS, SUBSTEPS = 5, (2, 4)


@pytest.fixture
def sides():
    rng = np.random.default_rng(0)
    chain = 1.3 + rng.normal(size=(60, STEPS, 2))
    common = rng.normal(size=(80, 1, STEPS, 2))
    dt = 1 / np.array(SUBSTEPS)[None, :, None, None]
    path = 1.0 + common + 0.8 * dt + 0.1 * rng.normal(size=(80, 2, STEPS, 2))
    return chain, path


def test_the_error_is_signed_and_its_variance_is_that_of_both_means(sides):
    chain, path = sides
    errors = weak_error(chain_of(chain), path_of(path))
    fine = 2 * path[:, 1] - path[:, 0]
    np.testing.assert_allclose(errors.error, chain.mean(0) - fine.mean(0), rtol=1e-10)
    np.testing.assert_allclose(
        errors.standard_error**2,
        chain.var(0, ddof=1) / 60 + fine.var(0, ddof=1) / 80,
        rtol=1e-10,
    )
    np.testing.assert_allclose(
        errors.chain_variance + errors.path_variance, errors.standard_error**2, rtol=1e-12
    )


def test_the_integrator_bias_is_measured_with_the_error_of_the_common_path(sides):
    chain, path = sides
    errors = weak_error(chain_of(chain), path_of(path))
    difference = path[:, 1] - (2 * path[:, 1] - path[:, 0])
    np.testing.assert_allclose(errors.integrator_bias, difference.mean(0), rtol=1e-9)
    np.testing.assert_allclose(
        errors.integrator_bias_standard_error,
        difference.std(0, ddof=1) / np.sqrt(80),
        rtol=1e-9,
    )
    assert float(errors.integrator_bias_standard_error.max()) < 0.3 * float(
        errors.standard_error.min()
    )


@pytest.mark.parametrize("ratio", [0.5, 0.25, -0.25, -0.5])
@pytest.mark.parametrize("substeps", [(2, 4), (2, 3, 6), (3, 9)])
def test_the_residual_bounds_what_extrapolation_leaves_of_a_falling_series(substeps, ratio):
    dt = 1 / np.array(substeps, dtype=float)
    means = 1.0 + 0.5 * dt / (1 - ratio * dt)
    path = np.broadcast_to(means[None, :, None, None], (4, len(substeps), STEPS, 1))
    errors = weak_error(
        chain_of(np.ones((4, STEPS, 1)), blocks=2), path_of(path, substeps, blocks=2)
    )
    left = np.abs(errors.error.values)
    assert np.all(left > 0)
    assert np.all(left <= (1 + 1e-9) * np.abs(errors.integrator_residual.values))


def test_one_substeps_value_leaves_the_bias_unmeasured(sides):
    chain, path = sides
    errors = weak_error(chain_of(chain), path_of(path[:, :1], (2,)))
    assert errors.attrs["integrator_bias_measured"] == 0
    assert np.isnan(errors.integrator_bias).all()
    assert np.isnan(errors.integrator_residual).all()
    assert np.isfinite(errors.error).all()


def test_exact_sides_have_no_standard_error_and_a_bound(sides):
    chain, path = sides
    exact = exact_dataset(
        mean=np.full((STEPS, 2), 1.5), bound=1e-9, **axes(chain), attrs={"time_per_step": 0.1}
    )
    both = weak_error(exact, exact)
    assert float(both.standard_error.max()) == 0.0
    assert float(both.max_error_high.max()) == pytest.approx(2e-9)
    mixed = weak_error(exact, path_of(path))
    np.testing.assert_allclose(mixed.standard_error**2, mixed.path_variance, rtol=1e-12)
    np.testing.assert_allclose(mixed.bound, 1e-9)
    against_exact = weak_error(chain_of(chain), exact)
    assert float(against_exact.integrator_residual.max()) == 0.0


def test_observables_are_matched_by_name(sides):
    chain, path = sides
    swapped = path_of(path).isel(observable=[1, 0])
    np.testing.assert_array_equal(
        weak_error(chain_of(chain), swapped).error, weak_error(chain_of(chain), path_of(path)).error
    )


def test_attributes_of_both_sides_are_kept(sides):
    chain, path = sides
    ours, theirs = chain_of(chain, seed=1, name="SGD"), path_of(path, seed=2)
    attrs = weak_error(ours, theirs).attrs
    assert attrs["chain_seed"] == 1
    assert attrs["path_seed"] == 2
    assert attrs["name"] == "SGD"
    assert attrs["time_per_step"] == 0.1
    assert attrs["path_id"] == theirs.attrs["fingerprint"]
    assert attrs["replicas"] == 60


def test_sides_that_do_not_belong_together_are_refused(sides):
    chain, path = sides
    ours, theirs = chain_of(chain), path_of(path)
    with pytest.raises(InvalidInputError, match="same steps"):
        weak_error(ours, theirs.isel(step=slice(1, None)))
    with pytest.raises(InvalidInputError, match="same times"):
        weak_error(ours, theirs.assign_coords(time=theirs.time * 1.01))
    with pytest.raises(InvalidInputError, match="observables"):
        weak_error(ours, theirs.isel(observable=[0]))
    with pytest.raises(InvalidInputError, match="kind 'path'"):
        weak_error(theirs, ours)
    path[3] = np.inf
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InvalidInputError, match="replicas diverged"),
    ):
        weak_error(ours, path_of(path))


def test_a_side_without_noise_adds_no_uncertainty_however_few_its_replicas(sides):
    chain, path = sides
    flow = np.broadcast_to(path.mean(axis=0), (2, *path.shape[1:]))
    exact = exact_dataset(
        mean=2 * flow[0, 1] - flow[0, 0], bound=0.0, **axes(chain), attrs={"time_per_step": 0.1}
    )
    ours = weak_error(chain_of(chain), path_of(flow, blocks=1))
    reference = weak_error(chain_of(chain), exact)
    np.testing.assert_allclose(ours.max_error_high, reference.max_error_high, rtol=1e-9)
    assert ours.attrs["replicas"] == 60
