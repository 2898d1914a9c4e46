"""Signal, noise and the conditions on them: unbiased, derived twice, and true at equilibrium."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sdeverify.analysis.ratio import ratio_interval
from sdeverify.base.state import State
from sdeverify.ensembles.measures import noise_trace, squared_parameter_norm
from sdeverify.ensembles.solve import solve
from sdeverify.ensembles.warm_up import iterate_states
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.minibatch import MinibatchNoise, ShuffledEpochs
from sdeverify.noise.oracle import GradientOracle
from sdeverify.noise.statistics import noise_statistics
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.problems.library import torus_problem
from sdeverify.problems.problem import FunctionProblem
from sdeverify.scaling.limits import (
    largest_factor,
    published_largest_factor,
    required_noise_to_signal,
    scaled_requirement,
)
from sdeverify.scaling.validity import signal_and_noise, validity

THETA = torch.tensor([0.4, -1.1], dtype=torch.float64)
ROWS = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def oracle():
    return GradientOracle(torus_problem(), MinibatchNoise(2))


@pytest.fixture
def scale_invariant():
    """Losses of the direction theta/|theta| only."""
    shift = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    return FunctionProblem(
        lambda theta: (
            torch.tanh((ROWS + shift) @ (theta / theta.norm())).square()
            + (ROWS + shift) @ (theta / theta.norm())
        ),
        3,
        12,
    )


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("amplification", [1.0, 1.7])
def test_two_gradients_give_signal_and_noise_without_bias(replacement, amplification):
    """Over all pairs of mini-batches, exactly."""
    base = GradientOracle(torus_problem(), MinibatchNoise(2, replacement))
    oracle = base.amplified(amplification)
    atoms, theta = oracle.atoms(), THETA.unsqueeze(0)
    g = atoms.gradients(theta)[0]
    n = len(g)
    signal, noise = signal_and_noise(g.repeat_interleave(n, 0), g.repeat(n, 1))
    weights = torch.outer(atoms.weights, atoms.weights).flatten()
    mean, variance = oracle.mean_and_variance(theta)
    assert float(weights @ signal) == pytest.approx(float(mean.square().sum()), rel=1e-12)
    wanted = oracle.scale**2 * float(variance.sum())
    assert float(weights @ noise) == pytest.approx(wanted, rel=1e-12)


def test_a_run_that_hardly_moves_measures_the_points_own_signal_and_noise(oracle):
    """Three statistics at |z| < 4.5: false-alarm rate about 2e-5."""
    found = validity(SGD(learning_rate=1e-12), oracle, THETA, steps=50, replicas=60)
    point = noise_statistics(oracle.problem, THETA)
    for name, truth in (
        ("mean_signal", point.squared_gradient_norm),
        ("mean_noise", point.noise_trace / 2),
    ):
        z = (float(found[name]) - truth) / float(found[f"{name}_standard_error"])
        assert abs(z) < 4.5
        assert float(found[f"{name}_standard_error"]) < 0.1 * truth
    ratio = point.noise_trace / 2 / point.squared_gradient_norm
    assert float(found["noise_to_signal_low"]) < ratio < float(found["noise_to_signal_high"])
    assert found["skewness"].values[0] == pytest.approx(
        [point.skewness.median, point.skewness.quantile90, point.skewness.maximum]
    )
    assert found["skewness"].values[1] == pytest.approx(found["skewness"].values[0], rel=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(learning_rate=0.05),
        SGDMomentum(learning_rate=0.01, momentum=0.8),
        RMSprop(learning_rate=0.01),
        Adam(learning_rate=0.01),
    ],
)
def test_every_optimizer_gets_its_numbers_and_its_own_words(oracle, optimizer):
    parts = {name: THETA.abs() for name in optimizer.sde_components if name != "theta"}
    found = validity(optimizer, oracle, State(10, theta=THETA, **parts), steps=5, replicas=6)
    assert found["step"].values.tolist() == [10, 11, 12, 13, 14]
    assert np.isfinite(found["noise"].values).all()
    assert float(found["data_limit"]) == 2.0
    assert found["sde_condition"].item() in ("met", "violated", "inconclusive")
    assert found.attrs["conditions"] in found.attrs["summary"]


def test_the_answer_follows_from_the_seed(oracle):
    runs = [
        validity(SGD(learning_rate=0.1), oracle, THETA, steps=4, replicas=5, seed=s)
        for s in (1, 1, 2)
    ]
    assert runs[0].identical(runs[1])
    assert float(runs[0]["mean_noise"]) != float(runs[2]["mean_noise"])


def test_the_prediction_is_the_least_of_its_three_limits():
    rows = 1 + 0.1 * ROWS
    clear = FunctionProblem(lambda theta: rows @ theta, 3, 12)
    oracle, theta = GradientOracle(clear, MinibatchNoise(1)), torch.zeros(3, dtype=torch.float64)
    slow = SGD(learning_rate=1e-3)
    found = validity(slow, oracle, theta, steps=20, replicas=20)
    assert found["limited_by"].item() == "signal and noise"
    assert float(found["prediction"]) == float(found["largest_factor"]) < 2.1
    assert found["sde_condition"].item() == "violated"

    noisy = FunctionProblem(lambda theta: 100 * ROWS @ theta, 3, 12)
    found = validity(slow, GradientOracle(noisy, MinibatchNoise(1)), theta, steps=20, replicas=20)
    assert found["limited_by"].item() in ("data", "signal and noise")
    assert float(found["prediction"]) <= 12
    adam = Adam(learning_rate=1e-3, beta1=0.5)
    start = State(1, theta=theta, m=theta, u=theta + 1)
    limited = validity(adam, GradientOracle(noisy, MinibatchNoise(1)), start, steps=20, replicas=20)
    assert limited["limited_by"].item() == "hyperparameters"
    assert float(limited["prediction"]) == 2


def test_the_factor_is_never_exceeded_by_runs_that_are_c_close():
    """A million pairs of runs that obey the balance: kappa is at most the bound at their own C."""
    rng = np.random.default_rng(0)
    count = 1_000_000
    decay = rng.choice([0.0, 0.01, 0.1], count)
    kappa = np.exp(rng.uniform(0, 2, count))
    g, n = np.exp(rng.normal(size=(2, count)))
    g2, n2 = g * np.exp(rng.normal(0, 0.5, count)), n / kappa * np.exp(rng.normal(0, 0.5, count))
    ratio_r = kappa * (g2 + n2) / (g + n) * (2 - decay) / (2 - kappa * decay)
    logs = np.log([ratio_r, g2 / g, kappa * n2 / n])
    c = np.exp(np.abs(logs).max(0))
    for d in (0.0, 0.01, 0.1):
        at = decay == d
        square, rho = c[at] ** 2, n[at] / g[at]
        bound = (2 * square * (1 + rho) - rho * (2 - d)) / (2 - d + square * (1 + rho) * d)
        some = zip(rho[:50], c[at][:50], bound[:50], strict=True)
        assert all(largest_factor(r, x, d) == pytest.approx(b) for r, x, b in some)
        assert np.all(kappa[at] <= bound * (1 + 1e-12))
        assert np.min(bound / kappa[at]) < 1.05


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_factor_is_reached_by_the_runs_that_are_just_c_close(decay):
    c, rho = 1.3, 4.0
    kappa = largest_factor(rho, c, decay)
    g2, n2 = 1 / c, rho / kappa / c
    size = kappa * (g2 + n2) / (1 + rho) * (2 - decay) / (2 - kappa * decay)
    assert size == pytest.approx(c)
    assert kappa < published_largest_factor(rho, c)


def test_the_two_forms_of_the_linear_rules_condition_are_one():
    """At kappa, with N'/G' = rho/kappa, the scaled run's requirement is met with equality."""
    for rho in (0.3, 2.0, 50.0):
        kappa = largest_factor(rho, math.sqrt(2))
        assert scaled_requirement(kappa, math.sqrt(2)) == pytest.approx(rho / kappa)
        assert kappa == pytest.approx(2 + rho)


def test_the_sdes_condition_is_the_balances_of_both_sides():
    c, decay = 1.4, 0.05
    rho = required_noise_to_signal(c, decay)
    sde_noise = c * rho
    size = (1 + rho) / (2 - decay) / (sde_noise / 2)
    assert size == pytest.approx(c)
    assert required_noise_to_signal(math.sqrt(2)) == pytest.approx(1.0)
    assert required_noise_to_signal(1.01, 0.5) == math.inf


def test_limits_of_the_conditions():
    assert largest_factor(0.0, 1.5) == pytest.approx(2.25)
    assert largest_factor(math.inf, 1.5) == math.inf
    assert largest_factor(math.inf, 1.5, 0.1) == pytest.approx(largest_factor(1e9, 1.5, 0.1))
    with pytest.raises(InvalidInputError, match="C > 1"):
        largest_factor(1.0, 1.0)
    with pytest.raises(InvalidInputError, match=r"\[0, 1\)"):
        largest_factor(1.0, 2.0, 1.5)


def test_fiellers_interval_covers_at_its_rate():
    """3000 trials at 95%; the count is binomial up to normality, false-alarm rate about 1e-4."""
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(3000):
        y = 2 + rng.normal(size=8)
        x = 3 + 0.5 * (y - 2) + rng.normal(size=8)
        interval = ratio_interval(x, y)
        hits += interval.low <= 1.5 <= interval.high
    low, high = stats.binom.ppf([5e-5, 1 - 5e-5], 3000, 0.95)
    assert low <= hits <= high


def test_an_unresolved_signal_leaves_the_ratio_open_above():
    rng = np.random.default_rng(1)
    interval = ratio_interval(1 + 0.1 * rng.normal(size=20), 0.02 + 0.1 * rng.normal(size=20))
    assert interval.high == math.inf
    assert 5 < interval.low < 1 / 0.02
    nothing = ratio_interval(0.1 * rng.normal(size=20), 0.1 * rng.normal(size=20))
    assert (nothing.low, nothing.high) == (0.0, math.inf)


def test_the_ratio_of_exact_values_is_a_point():
    interval = ratio_interval(np.full(5, 3.0), np.full(5, 2.0))
    assert interval == pytest.approx((1.5, 1.5, 1.5))


ETA, DECAY = 0.2, 0.4


def settled(optimizer, oracle):
    """A point of the equilibrium, after 300 steps."""
    begin = State(0, theta=torch.tensor([1.2, 0.4, -0.5], dtype=torch.float64))
    return list(iterate_states(optimizer, oracle, begin, 300, seed=9))[-1].theta[0]


def test_the_equilibrium_law_of_sgd_holds_on_a_scale_invariant_loss(scale_invariant):
    """(2 - eta lambda) lambda R = eta (G + N); a 99.99% interval, false-alarm rate 1e-4."""
    oracle = GradientOracle(scale_invariant, MinibatchNoise(2))
    optimizer = SGD(learning_rate=ETA, weight_decay=DECAY)
    found = validity(
        optimizer,
        oracle,
        settled(optimizer, oracle),
        steps=400,
        replicas=64,
        confidence=0.9999,
        seed=3,
    )
    assert float(found["balance_low"]) < 1 < float(found["balance_high"])
    assert float(found["balance_high"]) - float(found["balance_low"]) < 0.1
    without_signal = float(found["mean_noise"] / (found["mean_noise"] + found["mean_signal"]))
    assert without_signal < 0.9


def test_the_equilibrium_law_of_the_sde_holds_on_a_scale_invariant_loss(scale_invariant):
    """2 lambda R = eta E tr Sigma/B at a late time, |z| < 4.5 over independent replicas."""
    oracle = GradientOracle(scale_invariant, MinibatchNoise(2))
    optimizer = SGD(learning_rate=ETA, weight_decay=DECAY)
    sde, start = derive(optimizer, oracle), settled(optimizer, oracle)
    observables = [squared_parameter_norm(), noise_trace(oracle)]
    path = solve(
        sde, start, range(40, 80), observables, replicas=256, substeps=(2, 4), keep_replicas=True
    )
    w = np.array([-1.0, 2.0])
    values = np.tensordot(path["replicas"].values[:, :, 1:], w, axes=(1, 0)).mean(1)
    law = 2 * DECAY * values[:, 0] - ETA * values[:, 1] / 2
    assert abs(law.mean()) / (law.std(ddof=1) / math.sqrt(len(law))) < 4.5
    assert law.std(ddof=1) / math.sqrt(len(law)) < 0.05 * 2 * DECAY * values[:, 0].mean()


def test_bad_arguments_are_refused_before_the_run(oracle):
    for arguments in ({"replicas": 2}, {"steps": 0}):
        with pytest.raises(InvalidInputError, match="3 replicas or more"):
            validity(SGD(learning_rate=0.1), oracle, THETA, **arguments)
    with pytest.raises(InvalidInputError, match="C > 1"):
        validity(SGD(learning_rate=0.1), oracle, THETA, closeness=1.0)
    epochs = GradientOracle(oracle.problem, ShuffledEpochs(2))
    with pytest.raises(UnsupportedError, match="no two independent batches"):
        validity(SGD(learning_rate=0.1), epochs, THETA)


def test_a_run_that_diverges_is_refused_with_the_step():
    stiff = FunctionProblem(lambda theta: (ROWS @ theta).pow(4), 3, 12)
    oracle = GradientOracle(stiff, MinibatchNoise(2))
    with pytest.raises(InvalidInputError, match="diverged"):
        validity(
            SGD(learning_rate=10.0),
            oracle,
            torch.ones(3, dtype=torch.float64),
            steps=40,
            replicas=3,
        )
