"""The plan by which `solve` and `verify` solve an SDE: what it chooses, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

import sdeverify as sv
from sdeverify.ensembles.plan import NOISE_SHARE, precision_of
from sdeverify.problems.problem import FunctionProblem

CENTRES = torch.linspace(-1, 1, 64, dtype=torch.float64)
START = torch.tensor([0.5], dtype=torch.float64)
SEEN = [sv.Observable("theta^2", lambda s: s.theta[:, 0].square())]


def sde(batch_size=4, samples=64, optimizer=None, **noise):
    problem = FunctionProblem(
        lambda theta: 0.5 * (theta - CENTRES[:samples]).square(), 1, min(samples, 64)
    )
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size, **noise))
    return sv.derive(optimizer or sv.SGD(learning_rate=0.2), oracle)


@pytest.mark.parametrize(
    "optimizer",
    [
        None,
        sv.SGDMomentum(learning_rate=0.04, momentum=0.8),
        sv.RMSprop(learning_rate=0.1, beta=0.98, epsilon=0.5),
        sv.Adam(learning_rate=0.1, beta1=0.8, beta2=0.98, epsilon=0.5),
    ],
)
def test_a_step_takes_as_many_samples_as_have_the_noise_of_one_batch(optimizer):
    """1/sigma^2 on every clock: B with replacement, B (N - 1)/(N - B) without."""
    assert sv.plan(sde(4, optimizer=optimizer)).subsample == 4
    without = sv.plan(sde(16, optimizer=optimizer, replacement=False))
    assert without.subsample == math.ceil(16 * 63 / 48)


def test_all_samples_are_taken_where_a_subset_cannot_serve_and_the_plan_says_why():
    few = sv.plan(sde(4, samples=6))
    assert few.subsample == 0
    assert "save little" in str(few)
    adaptive = sv.RMSprop(learning_rate=0.1, beta=0.98, epsilon=0.5)
    kept = sv.derive(adaptive, sde().oracle, keep_signal=True)
    assert sv.plan(kept).subsample == 0
    assert "cannot keep the signal" in str(sv.plan(kept))
    normal = sv.GradientOracle(
        sde().oracle.problem, sv.GaussianNoise(torch.ones(1, 1, dtype=torch.float64))
    )
    assert sv.plan(sv.derive(sv.SGD(learning_rate=0.2), normal)).subsample == 0
    still = sv.GradientFlow.without_noise(sde())
    assert "one curve" in str(sv.plan(still))


def test_a_quarter_of_the_precision_takes_half_the_dt_and_sixteen_times_the_paths():
    coarse, fine = sv.plan(sde(), 0.08), sv.plan(sde(), 0.02)
    assert [coarse.substeps, fine.substeps] == [(2, 4), (4, 8)]
    assert fine.replicas == pytest.approx(16 * coarse.replicas, rel=0.01)
    assert sv.plan(sde(), 0.5).substeps == (1, 2)
    assert sv.plan(sde(), 1e-6).substeps == (32, 64)


def test_runs_and_paths_reach_the_precision_at_least_cost():
    found = sv.plan(sde(), 0.05, compared=True)
    error = math.sqrt(1 / found.runs + 1 / found.replicas)
    assert error == pytest.approx(NOISE_SHARE * 0.05, rel=0.01)
    # A path costs 2 dt x 4 steps x 4 samples / batches of 4 = 8 runs.
    assert found.runs / found.replicas == pytest.approx(math.sqrt(8), rel=0.01)
    assert precision_of(sv.plan(sde(), 0.05).replicas) == pytest.approx(0.05, rel=0.01)


def test_solve_follows_the_plan_and_everything_can_be_overridden():
    model = sde()
    planned = sv.solve(model, START, 2, SEEN, replicas=64)
    assert planned["substeps"].values.tolist() == [1, 2]
    assert planned.attrs["subsample"] == 4
    many = sv.solve(model, START, 1, SEEN, replicas=512)
    assert many["substeps"].values.tolist() == [2, 4]
    own = sv.solve(model, START, 2, SEEN, replicas=64, substeps=(3, 6), subsample=0)
    assert own["substeps"].values.tolist() == [3, 6]
    assert own.attrs["subsample"] == 0
    one = sv.solve(model, START, 2, SEEN, replicas=64, one_gradient=True)
    assert one.attrs["subsample"] == 0


def test_the_planned_precision_is_reached_where_the_truth_is_known():
    """theta^2 under a linear SDE: E = mean^2 + variance. 20 solves at precision 0.1; the root mean
    square error in spreads stays below the precision (false-alarm rate 1e-3)."""
    model, steps, eta, s2 = sde(), 3, 0.2, float(CENTRES.square().mean()) / 4
    variance = eta * s2 / 2 * (1 - math.exp(-2 * eta * steps))
    mean = 0.5 * math.exp(-eta * steps)
    truth, spread = mean**2 + variance, math.sqrt(4 * mean**2 * variance + 2 * variance**2)
    how = sv.plan(model, 0.1)
    errors = []
    for seed in range(20):
        path = sv.solve(
            model,
            START,
            [steps],
            SEEN,
            replicas=how.replicas,
            substeps=how.substeps,
            seed=seed,
            subsample=how.subsample,
        )
        errors.append((float(path["extrapolated"][-1, 0]) - truth) / spread)
    assert math.sqrt(sum(e * e for e in errors) / 20) < 0.1


@pytest.mark.parametrize("precision", [0, -0.1, float("nan")])
def test_a_precision_that_is_not_positive_is_refused(precision):
    with pytest.raises(sv.InvalidInputError, match="positive share"):
        sv.plan(sde(), precision)
