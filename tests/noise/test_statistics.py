"""The statistics of per-sample gradients against scipy's and against laws known in closed form."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats

from sdeverify.errors import InvalidInputError
from sdeverify.noise.minibatch import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.noise.statistics import noise_statistics
from sdeverify.problems.library import circle_problem, torus_problem
from sdeverify.problems.problem import FunctionProblem


def linear_problem(gradients, dtype=torch.float64):
    """A problem whose per-sample gradients are the rows of a matrix, at every theta."""
    rows = torch.as_tensor(np.asarray(gradients), dtype=dtype)
    return FunctionProblem(lambda theta: rows @ theta, rows.shape[1], rows.shape[0], dtype)


def test_the_statistics_are_scipys_of_the_matrix_of_gradients():
    rows = np.random.default_rng(0).gamma(2.0, size=(211, 9)) - 1.0
    found = noise_statistics(linear_problem(rows), torch.zeros(9, dtype=torch.float64))
    skewness = np.abs(stats.skew(rows, axis=0))
    kurtosis = stats.kurtosis(rows, axis=0)
    assert found.squared_gradient_norm == pytest.approx(np.sum(rows.mean(0) ** 2), rel=1e-12)
    assert found.noise_trace == pytest.approx(rows.var(0).sum(), rel=1e-12)
    for spread, values in ((found.skewness, skewness), (found.excess_kurtosis, kurtosis)):
        assert spread.median == pytest.approx(np.median(values), rel=1e-10)
        assert spread.quantile90 == pytest.approx(np.quantile(values, 0.9), rel=1e-10)
        assert spread.maximum == pytest.approx(values.max(), rel=1e-10)
    assert (found.samples, found.parameters, found.noiseless) == (211, 9, 0)


def test_the_answer_does_not_depend_on_the_size_of_the_chunks():
    problem = linear_problem(np.random.default_rng(1).normal(size=(37, 5)))
    theta = torch.ones(5, dtype=torch.float64)
    whole = asdict(noise_statistics(problem, theta))
    pieces = asdict(noise_statistics(problem, theta, numbers_at_once=20))
    for name, value in whole.items():
        assert pieces[name] == pytest.approx(value, rel=1e-12)


def test_no_more_samples_than_allowed_are_differentiated_at_a_time():
    sizes = []

    class Watched(FunctionProblem):
        def per_sample_gradients(self, theta, indices=None):
            sizes.append(indices.shape[1])
            return super().per_sample_gradients(theta, indices)

    rows = torch.randn(25, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Watched(lambda theta: rows @ theta, 4, 25)
    noise_statistics(problem, torch.zeros(4, dtype=torch.float64), numbers_at_once=32)
    assert sizes == [8, 8, 8, 1]


def test_coordinates_without_noise_are_counted_and_left_out():
    rows = np.random.default_rng(2).normal(size=(50, 4))
    padded = np.column_stack([rows, np.full(50, 0.3), np.zeros(50), np.full(50, -1e5)])
    for dtype in (torch.float64, torch.float32):
        found = noise_statistics(linear_problem(padded, dtype), torch.zeros(7, dtype=dtype))
        bare = noise_statistics(linear_problem(rows, dtype), torch.zeros(4, dtype=dtype))
        assert found.noiseless == 3
        assert found.skewness.maximum == pytest.approx(bare.skewness.maximum, rel=1e-4)
        assert found.noise_trace == pytest.approx(bare.noise_trace, rel=1e-4)


def test_small_noise_on_a_large_gradient_is_still_seen():
    rows = 1e4 + 1e-3 * np.random.default_rng(3).exponential(size=(400, 3))
    found = noise_statistics(linear_problem(rows), torch.zeros(3, dtype=torch.float64))
    assert found.noiseless == 0
    assert found.skewness.maximum == pytest.approx(stats.skew(rows - 1e4, axis=0).max(), rel=1e-5)


def test_two_equally_likely_gradients_have_no_skewness_and_kurtosis_minus_two():
    found = noise_statistics(linear_problem([[1.0], [-3.0]]), torch.zeros(1, dtype=torch.float64))
    assert found.skewness.maximum == pytest.approx(0.0, abs=1e-12)
    assert found.excess_kurtosis.maximum == pytest.approx(-2.0)
    assert found.squared_gradient_norm == pytest.approx(1.0)
    assert found.noise_trace == pytest.approx(4.0)
    assert found.noise_scale == pytest.approx(4.0)


def test_a_problem_without_noise_has_no_skewness_to_speak_of():
    found = noise_statistics(linear_problem([[2.0], [2.0]]), torch.zeros(1, dtype=torch.float64))
    assert found.noiseless == 1
    assert found.noise_trace == 0.0
    assert np.isnan(found.skewness.maximum)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_statistics_of_a_batch_are_those_of_its_list_of_atoms(batch_size):
    problem = circle_problem()
    theta = torch.tensor([1.3], dtype=torch.float64)
    atoms = GradientOracle(problem, MinibatchNoise(batch_size)).atoms()
    values, weights = atoms.gradients(theta.unsqueeze(0))[0, :, 0], atoms.weights
    mean = weights @ values
    moment = {p: float(weights @ (values - mean) ** p) for p in (2, 3, 4)}
    found = noise_statistics(problem, theta).of_batch(batch_size)
    assert found.noise_trace == pytest.approx(moment[2], rel=1e-12)
    assert found.skewness.maximum == pytest.approx(abs(moment[3]) / moment[2] ** 1.5, rel=1e-10)
    assert found.excess_kurtosis.maximum == pytest.approx(moment[4] / moment[2] ** 2 - 3, rel=1e-10)


def test_signal_and_trace_are_the_oracles():
    problem = torus_problem()
    theta = torch.tensor([0.4, -1.1], dtype=torch.float64)
    oracle = GradientOracle(problem, MinibatchNoise(1))
    found = noise_statistics(problem, theta)
    mean, variance = oracle.mean_and_variance(theta.unsqueeze(0))
    assert found.squared_gradient_norm == pytest.approx(float(mean.square().sum()))
    assert found.noise_trace == pytest.approx(float(variance.sum()))


def test_an_ensemble_of_points_is_refused():
    with pytest.raises(InvalidInputError, match="one point"):
        noise_statistics(torus_problem(), torch.zeros(3, 2, dtype=torch.float64))


def test_gradients_that_are_not_finite_are_refused():
    with pytest.raises(InvalidInputError, match="not finite"):
        noise_statistics(torus_problem(), torch.full((2,), torch.inf, dtype=torch.float64))
