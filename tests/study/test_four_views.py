"""Four views of one run: on problems where both parts of the gap are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sdeverify.base.state import State
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.solve import simulate, solve
from sdeverify.errors import InvalidInputError, SdeverifyError, UnsupportedError
from sdeverify.noise.gaussian import GaussianNoise
from sdeverify.noise.minibatch import MinibatchNoise, ShuffledEpochs
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.sgd import SGD
from sdeverify.problems.library import circle_problem
from sdeverify.problems.problem import FunctionProblem
from sdeverify.study.four_views import four_views, views_table

ETA, STEPS, REPLICAS = 0.2, 10, 4096
SKEWED = torch.tensor([2.0, -1.0, -1.0], dtype=torch.float64)
START = torch.tensor([0.5], dtype=torch.float64)
POWERS = [
    Observable("theta", lambda state: state.theta[:, 0]),
    Observable("theta^2", lambda state: state.theta[:, 0].square()),
    Observable("theta^3", lambda state: state.theta[:, 0].pow(3)),
]
CIRCLE = [
    Observable("cos", lambda state: state.theta[:, 0].cos()),
    Observable("sin 2", lambda state: (2 * state.theta[:, 0]).sin()),
    Observable("exp cos", lambda state: state.theta[:, 0].cos().exp()),
]


def views(problem, noise, observables=POWERS, **changes):
    given = {"replicas": REPLICAS, "block_size": 1024, "levels": (1,), "seed": 11, **changes}
    oracle = GradientOracle(problem, noise)
    return four_views(SGD(learning_rate=ETA), oracle, START, STEPS, observables, **given)


@pytest.fixture(scope="module")
def tilted():
    """l_i = c_i theta: no curvature, so that one step is one step of the SDE but for its noise."""
    return FunctionProblem(lambda theta: SKEWED * theta, 1, 3)


@pytest.fixture(scope="module")
def bowl():
    """l_i = theta^2/2 + c_i theta: the noise is the same everywhere."""
    return FunctionProblem(lambda theta: 0.5 * theta.square() + SKEWED * theta, 1, 3)


@pytest.fixture(scope="module")
def circle():
    noise = MinibatchNoise(1)
    oracle = GradientOracle(circle_problem(), noise)
    start = torch.tensor([2.0], dtype=torch.float64)
    return four_views(
        SGD(learning_rate=ETA),
        oracle,
        start,
        STEPS,
        CIRCLE,
        levels=(1, 2, 4),
        replicas=REPLICAS,
        block_size=1024,
        seed=5,
    )


def last(ds, part, name):
    at = ds.sel(part=part, observable=name).isel(step=-1)
    return float(at["gap_part"]), float(at["gap_part_standard_error"])


def test_without_curvature_the_whole_gap_is_the_skewness_of_the_noise(tilted):
    """E theta_k^3 = theta_0^3 + 3 theta_0 k eta^2 s^2 - k eta^3 mu_3; only the last term is not the
    SDE's. |z| < 4.5 in 4 comparisons, false-alarm rate below 5e-5."""
    ds = views(tilted, MinibatchNoise(1))
    skew = -STEPS * ETA**3 * float((SKEWED**3).mean())
    for part, wanted in (("non-Gaussianity", skew), ("time discretisation", 0.0), ("total", skew)):
        value, error = last(ds, part, "theta^3")
        assert abs(value - wanted) < 4.5 * error
    value, error = last(ds, "non-Gaussianity", "theta^2")
    assert abs(value) < 4.5 * error


def test_skewed_noise_is_told_from_the_surrogates(tilted):
    """The negative control: at 8192 replicas the skewness is seen, z < -2."""
    ds = views(tilted, MinibatchNoise(1), replicas=8192)
    value, error = last(ds, "non-Gaussianity", "theta^3")
    assert value < -2 * error
    assert abs(value + 0.16) < 4.5 * error


def test_with_constant_noise_means_and_variances_differ_by_the_time_step_alone(bowl):
    """E theta = theta_0 (1 - eta)^k against theta_0 exp(-k eta), E theta^2 likewise; |z| < 4.5."""
    ds = views(bowl, MinibatchNoise(1))
    s2, decay = 2.0, 1 - ETA
    theta = 0.5 * (decay**STEPS - math.exp(-STEPS * ETA))
    chain = decay ** (2 * STEPS)
    square = 0.25 * chain + ETA**2 * s2 * (1 - chain) / (1 - decay**2)
    flow = math.exp(-2 * STEPS * ETA)
    square -= 0.25 * flow + ETA * s2 * (1 - flow) / 2
    for name, wanted in (("theta", theta), ("theta^2", square)):
        for part, gap in (("time discretisation", wanted), ("non-Gaussianity", 0.0)):
            value, error = last(ds, part, name)
            assert abs(value - gap) < 4.5 * error + 1e-3, (part, name)
    value, error = last(ds, "time discretisation", "theta^2")
    assert square > 0.02
    assert value > 2 * error


def test_the_total_is_the_published_weak_error_on_the_circle(circle):
    """SGD, order 1, eta = 0.2, B = 1, T = 2; |z| < 4.5 in 3 comparisons."""
    sizes = {"cos": 1.71626e-2, "sin 2": 2.56889e-2, "exp cos": 3.88018e-2}
    for name, size in sizes.items():
        value, error = last(circle, "total", name)
        residual = abs(float(circle["integrator_residual"].sel(observable=name)[-1]))
        assert abs(abs(value) - size) < 4.5 * error + residual
        assert error < size


def test_the_total_is_the_sum_of_its_parts_and_its_variance_that_of_their_sum(circle):
    parts = circle["gap_part"].values
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], atol=1e-14)
    variance = circle["gap_part_standard_error"].values ** 2
    sum_of = variance[0] + variance[1] + 2 * circle["part_covariance"].values
    np.testing.assert_allclose(sum_of, variance[2], rtol=1e-9, atol=1e-18)


def test_the_views_are_those_of_simulate_and_solve_at_the_seeds_it_names(circle):
    oracle = GradientOracle(circle_problem(), MinibatchNoise(1))
    optimizer, start = SGD(learning_rate=ETA), torch.tensor([2.0], dtype=torch.float64)
    assert circle["view"].values.tolist() == [
        "optimizer",
        "Gaussian surrogate",
        "SVAG level 2",
        "SVAG level 4",
        "SDE",
    ]
    seeds = dict(zip(circle["view"].values, circle["seed"].values.tolist(), strict=True))
    assert len(set(seeds.values())) == len(seeds)
    chain = simulate(
        optimizer,
        oracle,
        start,
        STEPS,
        CIRCLE,
        replicas=REPLICAS,
        seed=seeds["optimizer"],
        block_size=1024,
    )
    np.testing.assert_array_equal(circle["mean"].sel(view="optimizer"), chain["mean"])
    sde = derive(optimizer, oracle)
    path = solve(sde, start, STEPS, CIRCLE, replicas=REPLICAS, seed=seeds["SDE"], block_size=1024)
    np.testing.assert_array_equal(circle["mean"].sel(view="SDE"), path["extrapolated"])
    gap = circle["mean"].sel(view="optimizer") - circle["mean"].sel(view="SDE")
    np.testing.assert_allclose(circle["gap"].sel(view="optimizer"), gap.values, atol=1e-15)
    assert not circle["gap"].sel(view="SDE").values.any()


def test_finer_svag_levels_come_closer_to_the_sde(circle):
    """E exp cos: levels 1 and 4 differ by 0.75 of 0.039, 5 standard errors; below 2 at 0.2%."""
    gaps = np.abs(circle["gap"].sel(observable="exp cos").isel(step=-1))
    error = float(circle["gap_standard_error"].sel(view="optimizer", observable="exp cos")[-1])
    assert float(gaps.sel(view="optimizer") - gaps.sel(view="SVAG level 4")) > 2 * error


def test_an_adaptive_optimizer_goes_through_all_views():
    problem = FunctionProblem(lambda theta: 0.5 * theta.square() + SKEWED * theta, 1, 3)
    oracle = GradientOracle(problem, MinibatchNoise(1))
    adam = Adam(learning_rate=0.05, beta1=0.9, beta2=0.95, epsilon=1e-2)
    start = State(20, theta=START, m=0 * START, u=START + 1.5)
    said = []
    ds = four_views(
        adam,
        oracle,
        start,
        4,
        POWERS,
        levels=(2, 1),
        replicas=64,
        block_size=32,
        progress=lambda *call: said.append(call),
    )
    views_in_order = ds["view"].values.tolist()
    assert said == [(view, done, 64) for view in views_in_order for done in range(0, 65, 8)]
    assert ds["level"].values[[0, 2]].tolist() == [1.0, 2.0]
    assert float(ds["step"][0]) == 20.0
    assert np.isfinite(ds["gap_part"].values).all()
    with pytest.raises(InvalidInputError, match=r"level 2 has another .* levels=\(1,\)"):
        four_views(adam, oracle, start, 4, POWERS, levels=(1, 2), sde_options={"keep_signal": True})


def test_the_table_shows_the_parts_in_spreads_of_the_runs(circle):
    at = circle.isel(step=-1).sel(observable="exp cos")
    runs = circle.attrs["replicas"]
    spread = float(at["standard_error"].sel(view="optimizer")) * runs**0.5
    assert float(at["spread"]) == pytest.approx(spread, rel=1e-12)
    head, _, *rows = views_table(circle).splitlines()
    cells = dict(zip(head.split(" | "), rows[2].split(" | "), strict=True))
    for part in ("total", "non-Gaussianity", "time discretisation"):
        shown = float(cells[part].replace("*", "").split(" ± ")[0])
        assert shown == pytest.approx(float(at["gap_part"].sel(part=part)) / spread, abs=6e-3)
    assert cells["total"].startswith("**")
    assert "SVAG level 4" in cells
    assert views_table(circle, step=float(circle["step"][0])).splitlines()[2].count("| -") == 5


def test_bad_input_is_refused_before_the_work(tilted):
    for levels in ((0.5,), (1, 2, 2), (float("nan"),)):
        with pytest.raises(InvalidInputError, match="different real numbers >= 1"):
            views(tilted, MinibatchNoise(1), levels=levels)
    with pytest.raises(UnsupportedError, match="independent from step to step"):
        views(tilted, ShuffledEpochs(1))
    with pytest.raises(InvalidInputError, match="not a whole number"):
        views(tilted, MinibatchNoise(1), levels=(1, 1.5), progress=pytest.fail)


def test_a_view_that_diverges_is_named():
    steep = FunctionProblem(lambda theta: theta.pow(6) * torch.ones(2), 1, 2)
    noise = GaussianNoise(torch.ones(1, 1, dtype=torch.float64))
    oracle = GradientOracle(steep, noise)
    with pytest.raises(SdeverifyError, match="not finite"):
        four_views(SGD(learning_rate=1.0), oracle, 3 * START, STEPS, POWERS, replicas=8)
