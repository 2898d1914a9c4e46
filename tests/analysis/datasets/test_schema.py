"""Datasets from block moments: derived values, merging, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sdeverify.analysis.datasets.moments import (
    block_moments,
    cross_block_moments,
    extrapolation_weights,
)
from sdeverify.analysis.datasets.schema import (
    chain_dataset,
    check_chain,
    check_path,
    exact_dataset,
    path_dataset,
)
from sdeverify.errors import InvalidInputError

STEPS = {"step": [1.0, 2.0, 4.0], "time": [0.1, 0.2, 0.4], "observables": ["loss", "norm"]}


def make_chain(values, numbers=(0, 1), **extra):
    parts = [block_moments(v) for v in np.array_split(values, len(numbers))]
    return chain_dataset(
        block_count=[p.count for p in parts],
        block_mean=np.stack([p.mean for p in parts]),
        block_comoment=np.stack([p.comoment for p in parts]),
        blocks=list(numbers),
        **{**STEPS, "attrs": {"name": "SGD", "seed": np.int64(3)}, **extra},
    )


def make_path(values, substeps, numbers=(0, 1), **extra):
    parts = [cross_block_moments(v) for v in np.array_split(values, len(numbers))]
    return path_dataset(
        block_count=[p.count for p in parts],
        block_mean=np.stack([p.mean for p in parts]),
        block_comoment=np.stack([p.comoment for p in parts]),
        blocks=list(numbers),
        substeps=substeps,
        **{**STEPS, "attrs": {"model": "SGD SDE"}, **extra},
    )


@pytest.fixture
def replicas():
    return np.random.default_rng(0).normal(2.0, 1.0, (41, 3, 2))


@pytest.fixture
def path_replicas():
    return np.random.default_rng(1).normal(2.0, 1.0, (40, 3, 3, 2)).cumsum(axis=1)


def test_a_chain_has_the_mean_and_standard_error_of_all_replicas(replicas):
    ds = make_chain(replicas)
    check_chain(ds)
    np.testing.assert_allclose(ds["mean"], replicas.mean(0), rtol=1e-13)
    np.testing.assert_allclose(ds.standard_error, replicas.std(0, ddof=1) / np.sqrt(41), rtol=1e-12)
    assert ds.attrs["kind"] == "chain"
    assert type(ds.attrs["seed"]) is int
    assert ds.observable.dtype == object


def test_two_substeps_extrapolate_linearly_with_the_joint_standard_error(path_replicas):
    x = path_replicas[:, :2]
    ds = make_path(x, [2, 6])
    check_path(ds)
    combined = (6 * x[:, 1] - 2 * x[:, 0]) / 4
    np.testing.assert_allclose(ds.extrapolated, combined.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        ds.extrapolated_standard_error, combined.std(0, ddof=1) / np.sqrt(40), rtol=1e-10
    )
    assert ds["mean"].dims == ("substeps", "step", "observable")
    assert ds.attrs["integrator_bias_measured"] == 1


def test_extrapolation_is_exact_for_every_polynomial_through_all_points():
    substeps = np.array([1, 2, 5, 8])
    w = extrapolation_weights(substeps)
    dt = 1.0 / substeps
    assert w @ (3.0 - 2.0 * dt + 0.5 * dt**2 + 7.0 * dt**3) == pytest.approx(3.0, abs=1e-12)
    np.testing.assert_allclose(extrapolation_weights([2, 4]), [-1.0, 2.0])


def test_one_substeps_value_is_not_extrapolated_and_says_so(path_replicas):
    ds = make_path(path_replicas[:, :1], [4])
    check_path(ds)
    np.testing.assert_allclose(ds.extrapolated, path_replicas[:, 0].mean(0), rtol=1e-13)
    assert ds.attrs["integrator_bias_measured"] == 0


def test_unsorted_blocks_bring_their_replicas_along(replicas):
    x = replicas[:40]
    one = make_chain(x, numbers=(0, 1), replicas=x)
    other = make_chain(np.roll(x, 20, axis=0), numbers=(1, 0), replicas=np.roll(x, 20, axis=0))
    xr.testing.assert_identical(one, other)


def test_a_fingerprint_tells_different_results_apart(replicas):
    marks = {make_chain(r).attrs["fingerprint"] for r in (replicas, replicas + 1e-12, replicas)}
    assert len(marks) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": [1.0, 2.0]}, "along 'step'"),
        ({"time": [0.1]}, "along 'step'"),
        ({"step": [1.0, 1.0, 2.0]}, "ascending"),
        ({"observables": ["loss", "loss"]}, "different names"),
        ({"attrs": {"noise": [1, 2]}}, "attribute 'noise' is a list"),
        ({"replicas": np.zeros((3, 3, 2))}, "replicas have shape"),
    ],
)
def test_a_chain_with_wrong_axes_is_refused(replicas, change, message):
    with pytest.raises(InvalidInputError, match=message):
        make_chain(replicas, **change)


def test_wrong_moments_and_substeps_are_refused(replicas, path_replicas):
    good = {"block_count": [2], "blocks": [0], **STEPS, "attrs": {}}
    with pytest.raises(InvalidInputError, match="has the axes"):
        chain_dataset(block_mean=np.zeros((3, 2)), block_comoment=np.zeros((1, 3, 2)), **good)
    with pytest.raises(InvalidInputError, match="do not fit"):
        chain_dataset(block_mean=np.zeros((1, 3, 2)), block_comoment=np.zeros((2, 3, 2)), **good)
    for substeps in ([4, 2], [0, 2], [2, 2], []):
        with pytest.raises(InvalidInputError, match="ascending"):
            make_path(path_replicas[:, :2], substeps)
    with pytest.raises(InvalidInputError, match="entries along 'substeps'"):
        make_path(path_replicas, [2, 4])


def test_checks_name_what_came_and_where_it_went_wrong(replicas, path_replicas):
    chain, path = make_chain(replicas), make_path(path_replicas[:, :2], [2, 4])
    with pytest.raises(InvalidInputError, match=r"of kind 'path'.*simulate"):
        check_chain(path)
    with pytest.raises(InvalidInputError, match=r"of kind 'chain'.*solve"):
        check_path(chain)
    with pytest.raises(InvalidInputError, match="of one replica"):
        check_chain(make_chain(replicas[:1], numbers=(0,)))
    with pytest.raises(InvalidInputError, match="lacks 'extrapolated'"):
        check_path(path.drop_vars("extrapolated"))
    x = replicas.copy()
    x[5, 1:, 1] = np.nan
    with pytest.raises(InvalidInputError, match="'norm' is not finite from step 2 on"):
        check_chain(make_chain(x))


def test_an_exact_dataset_passes_for_both_sides():
    ds = exact_dataset(mean=np.ones((3, 2)), bound=1e-9, **STEPS, attrs={})
    check_chain(ds)
    check_path(ds)
    assert float(ds.standard_error.max()) == 0.0


def test_a_block_that_comes_twice_is_refused(replicas):
    with pytest.raises(InvalidInputError, match="block 1 comes more than once"):
        make_chain(replicas, numbers=(1, 1))
