"""The moments of the SDEs against closed forms and against the coded drift and diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from moment_equations import moments as linear_moments
from moment_equations.quadratic import Quadratic
from moment_equations.sdes import (
    adam_sde_moments,
    momentum_sde_moments,
    rmsprop_sde_moments,
    sgd_sde_moments,
)
from scipy.integrate import solve_ivp

from sdeverify.base.state import State
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.solve import solve
from sdeverify.errors import InconclusiveError, InvalidInputError
from sdeverify.noise import GaussianNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, Optimizer, RMSprop, SGDMomentum
from sdeverify.optimizers.derive import derive
from sdeverify.problems.problem import FunctionProblem
from sdeverify.sdes import GradientSDE

DIM = 3
HESSIAN = np.array([[1.3, 0.2, -0.3], [0.2, 0.8, 0.1], [-0.3, 0.1, 0.6]])
MINIMUM = np.array([0.4, -0.7, 0.2])
FACTOR = np.array([[0.9, 0.0], [0.3, 0.7], [-0.4, 0.5]])
THETA0 = np.array([1.0, 0.5, -0.8])
BUFFER0 = np.array([0.2, -0.4, 0.1])
U0 = np.array([1.5, 0.3, 0.2])
SIGMA = 1.7
QUADRATIC = Quadratic(HESSIAN, MINIMUM, FACTOR @ FACTOR.T)

DECAYS = np.array([0.1, 0.0, 0.3])
RATES = np.array([1.0, 0.5, 0.2])


def ratio(step: float) -> np.ndarray:
    """A learning rate of each parameter that falls with the step."""
    return RATES / (1 + 0.1 * step)


def coded_ratio(step: float) -> torch.Tensor:
    return torch.tensor(ratio(step))


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def oracle(sigma: float = SIGMA) -> GradientOracle:
    hessian, minimum = tensor(HESSIAN), tensor(MINIMUM)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return (0.5 * (theta - minimum) @ hessian @ (theta - minimum)).reshape(1)

    problem = FunctionProblem(loss, dim=DIM, samples=1)
    return GradientOracle(problem, GaussianNoise(tensor(FACTOR), sigma))


def linear_part(sde: GradientSDE, t: float, u: np.ndarray) -> tuple[np.ndarray, ...]:
    """A, b, G of (theta, p | m) and du/dt, read off the coded f and g at 0 and the unit vectors."""
    random = "u" in sde.components
    n = DIM * (len(sde.components) - random)
    points = np.vstack([np.zeros(n), np.eye(n), np.linspace(-1.0, 2.0, n)])
    y = tensor(np.hstack([points, np.tile(u, (n + 2, 1))]) if random else points)
    drift = sde.f(t, y).numpy()
    vector = drift[0, :n]
    matrix = (drift[1 : n + 1, :n] - vector).T
    np.testing.assert_allclose(drift[-1, :n], matrix @ points[-1] + vector, atol=1e-12)
    diffusion = sde.g(t, y).numpy()
    np.testing.assert_allclose(diffusion[-1], diffusion[0], atol=1e-14)
    np.testing.assert_array_equal(diffusion[0, n:], 0.0)
    return matrix, vector, diffusion[0, :n], drift[-1, n:]


def moments_of_coded(
    sde: GradientSDE, mean: np.ndarray, u: np.ndarray, start: float, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the whole state at `end` from the coded f and g, without sampling."""
    n = mean.size

    def slope(t: float, packed: np.ndarray) -> np.ndarray:
        a, b, g, du = linear_part(sde, t, packed[n + n * n :])
        c = packed[n : n + n * n].reshape(n, n)
        return np.concatenate([a @ packed[:n] + b, (a @ c + c @ a.T + g @ g.T).ravel(), du])

    first = np.concatenate([mean, np.zeros(n * n), u])
    y = solve_ivp(slope, (start, end), first, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    covariance = np.zeros((n + u.size, n + u.size))
    covariance[:n, :n] = y[n : n + n * n].reshape(n, n)
    return np.concatenate([y[:n], y[n + n * n :]]), covariance


Case = tuple[Optimizer, Callable[..., linear_moments.Moments], dict[str, Any], float]

SGD_DECAYED: Case = (
    SGD(learning_rate=0.2, weight_decay=tensor(DECAYS)),
    sgd_sde_moments,
    {"learning_rate": 0.2, "weight_decay": DECAYS, "theta0": THETA0},
    0.0,
)
SGD_SCHEDULED: Case = (
    SGD(learning_rate=0.2, learning_rate_ratio=coded_ratio),
    sgd_sde_moments,
    {"learning_rate": 0.2, "ratio": ratio, "theta0": THETA0},
    0.4,
)
MOMENTUM_DAMPED: Case = (
    SGDMomentum(learning_rate=0.1, momentum=0.8, dampening=0.3, weight_decay=0.05),
    momentum_sde_moments,
    {
        "learning_rate": 0.1,
        "momentum": 0.8,
        "dampening": 0.3,
        "weight_decay": 0.05,
        "theta0": THETA0,
        "p0": BUFFER0,
    },
    0.0,
)
MOMENTUM_SCHEDULED: Case = (
    SGDMomentum(
        learning_rate=0.1,
        momentum=tensor(np.array([0.9, 0.8, 0.5])),
        nesterov=True,
        learning_rate_ratio=coded_ratio,
    ),
    momentum_sde_moments,
    {
        "learning_rate": 0.1,
        "momentum": [0.9, 0.8, 0.5],
        "ratio": ratio,
        "theta0": THETA0,
        "p0": BUFFER0,
    },
    0.6,
)
RMSPROP_PLAIN: Case = (
    RMSprop(learning_rate=0.3, beta=0.9, epsilon=0.2),
    rmsprop_sde_moments,
    {"learning_rate": 0.3, "beta": 0.9, "epsilon": 0.2, "theta0": THETA0, "u0": U0},
    0.0,
)
RMSPROP_GROUPS: Case = (
    RMSprop(
        learning_rate=0.3,
        beta=tensor(np.array([0.9, 0.95, 0.8])),
        epsilon=tensor(np.array([0.1, 0.2, 0.5])),
        weight_decay=tensor(DECAYS),
        old_v=True,
        learning_rate_ratio=coded_ratio,
    ),
    rmsprop_sde_moments,
    {
        "learning_rate": 0.3,
        "beta": [0.9, 0.95, 0.8],
        "epsilon": [0.1, 0.2, 0.5],
        "weight_decay": DECAYS,
        "ratio": ratio,
        "theta0": THETA0,
        "u0": U0,
    },
    0.5,
)
ADAM_PLAIN: Case = (
    Adam(learning_rate=0.3, beta1=0.8, beta2=0.95, epsilon=0.2, weight_decay=0.1),
    adam_sde_moments,
    {
        "learning_rate": 0.3,
        "beta1": 0.8,
        "beta2": 0.95,
        "epsilon": 0.2,
        "weight_decay": 0.1,
        "theta0": THETA0,
        "m0": BUFFER0,
        "u0": U0,
    },
    0.3,
)
ADAMW_GROUPS: Case = (
    Adam(
        learning_rate=0.3,
        beta1=tensor(np.array([0.9, 0.5, 0.8])),
        beta2=tensor(np.array([0.99, 0.9, 0.95])),
        epsilon=tensor(np.array([0.0, 0.2, 0.1])),
        decoupled_weight_decay=tensor(DECAYS),
        learning_rate_ratio=coded_ratio,
    ),
    adam_sde_moments,
    {
        "learning_rate": 0.3,
        "beta1": [0.9, 0.5, 0.8],
        "beta2": [0.99, 0.9, 0.95],
        "epsilon": [0.0, 0.2, 0.1],
        "decoupled_weight_decay": DECAYS,
        "ratio": ratio,
        "theta0": THETA0,
        "m0": BUFFER0,
        "u0": U0,
    },
    0.3,
)
CASES = {
    "SGD with a decay of each parameter": SGD_DECAYED,
    "SGD with a schedule": SGD_SCHEDULED,
    "damped momentum": MOMENTUM_DAMPED,
    "Nesterov with a schedule": MOMENTUM_SCHEDULED,
    "RMSprop": RMSPROP_PLAIN,
    "RMSprop with groups": RMSPROP_GROUPS,
    "Adam": ADAM_PLAIN,
    "AdamW with groups": ADAMW_GROUPS,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_moments_equal_those_integrated_from_the_coded_drift_and_diffusion(case: Case) -> None:
    optimizer, moments, arguments, start = case
    end = start + 1.2
    found = moments(
        QUADRATIC, sigma=SIGMA, times=[start, start + 0.5, end], start_time=start, **arguments
    )
    linear = [v for k, v in arguments.items() if k in ("theta0", "p0", "m0")]
    u0 = arguments.get("u0", np.zeros(0))
    mean, covariance = moments_of_coded(
        derive(optimizer, oracle()), np.concatenate(linear), u0, start, end
    )
    assert found.components == optimizer.sde_components
    np.testing.assert_allclose(found.mean[0], np.concatenate([*linear, u0]))
    np.testing.assert_array_equal(found.covariance[0], 0.0)
    np.testing.assert_allclose(found.mean[-1], mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.covariance[-1], covariance, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.steps, found.times / optimizer.time_per_step)


def test_one_dimensional_sgd_is_an_ornstein_uhlenbeck_process() -> None:
    a, s, eta = 0.7, 1.9, 0.1
    quadratic = Quadratic([[a]], [0.5], [[s]])  # type: ignore[arg-type]
    times = np.array([0.0, 0.3, 2.0, 50.0])
    found = sgd_sde_moments(quadratic, learning_rate=eta, sigma=2.0, theta0=3.0, times=times)
    decay = np.exp(-a * times)
    np.testing.assert_allclose(found.mean[:, 0], 0.5 + 2.5 * decay, rtol=1e-13)
    variance = eta * 4.0 * s * (1 - decay**2) / (2 * a)
    np.testing.assert_allclose(found.covariance[:, 0, 0], variance, rtol=1e-12, atol=1e-16)


def test_a_flat_direction_diffuses_and_an_unstable_one_grows() -> None:
    hessian = np.diag([0.0, -0.5])
    found = sgd_sde_moments(
        Quadratic(hessian, np.zeros(2), np.eye(2)),
        learning_rate=0.1,
        sigma=1.0,
        theta0=[1.0, 1.0],
        times=[4.0],
    )
    np.testing.assert_allclose(found.mean[0], [1.0, math.exp(2.0)], rtol=1e-13)
    grown = 0.1 * (math.exp(4.0) - 1)
    np.testing.assert_allclose(found.covariance[0], np.diag([0.4, grown]), rtol=1e-12, atol=1e-15)


def test_momentum_reaches_equipartition_after_a_very_long_time() -> None:
    found = momentum_sde_moments(
        QUADRATIC, learning_rate=0.04, momentum=0.9, sigma=1.0, theta0=THETA0, p0=0.0, times=[1e6]
    )
    gamma, temperature = 0.5, 0.2
    c, a, noise = found.covariance[0], HESSIAN, temperature * QUADRATIC.noise_covariance
    theta, mixed, p = c[:DIM, :DIM], c[:DIM, DIM:], c[DIM:, DIM:]
    np.testing.assert_allclose(found.mean_of("theta")[0], MINIMUM, rtol=1e-12)
    np.testing.assert_allclose(mixed, -mixed.T, atol=1e-13)
    np.testing.assert_allclose(p, a @ theta + gamma * mixed.T, atol=1e-12)
    np.testing.assert_allclose(a @ mixed + mixed.T @ a + 2 * gamma * p, noise, atol=1e-12)


@pytest.mark.parametrize("start", [0.0, 0.4])
def test_matrix_exponentials_and_integration_agree(start: float) -> None:
    arguments: dict[str, Any] = {
        "learning_rate": 0.1,
        "momentum": 0.8,
        "sigma": SIGMA,
        "theta0": THETA0,
        "p0": BUFFER0,
        "times": [start + 0.1, start + 7.0],
        "start_time": start,
    }
    exponential = momentum_sde_moments(QUADRATIC, ratio=0.7, **arguments)
    integrated = momentum_sde_moments(QUADRATIC, ratio=lambda step: 0.7, **arguments)
    np.testing.assert_allclose(exponential.mean, integrated.mean, rtol=1e-10)
    np.testing.assert_allclose(exponential.covariance, integrated.covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["SGD with a schedule", "RMSprop with groups", "AdamW with groups"]
)
def test_starting_again_from_the_moments_on_the_way_changes_nothing(name: str) -> None:
    _, moments, arguments, start = CASES[name]
    whole = moments(
        QUADRATIC, sigma=SIGMA, times=[start + 0.4, start + 1.0], start_time=start, **arguments
    )
    parts = {f"{c}0": whole.mean_of(c)[0] for c in whole.components}
    n = DIM * (len(whole.components) - ("u" in whole.components))
    second = moments(
        QUADRATIC,
        sigma=SIGMA,
        times=[start + 1.0],
        start_time=start + 0.4,
        covariance0=whole.covariance[0, :n, :n],
        **{**arguments, **parts},
    )
    np.testing.assert_allclose(second.mean[0], whole.mean[1], rtol=1e-11)
    np.testing.assert_allclose(second.covariance[0], whole.covariance[1], rtol=1e-10, atol=1e-13)


def test_expectations_of_quadratics_follow_from_the_moments() -> None:
    found = momentum_sde_moments(
        QUADRATIC,
        learning_rate=0.1,
        momentum=0.8,
        sigma=SIGMA,
        theta0=THETA0,
        p0=BUFFER0,
        times=[0.0, 1.0],
    )
    q, b = np.arange(9.0).reshape(3, 3), np.array([1.0, -2.0, 3.0])
    values = found.expectation_of_quadratic(q, b, 0.5)
    assert values[0] == pytest.approx(THETA0 @ q @ THETA0 + b @ THETA0 + 0.5, rel=1e-13)
    samples = np.random.default_rng(3).multivariate_normal(
        found.mean_of("p")[1], found.covariance_of("p")[1], size=50_000
    )
    sampled = np.einsum("si,ij,sj->s", samples, q, samples)
    error = sampled.std() / math.sqrt(sampled.size)
    exact = found.expectation_of_quadratic(q, component="p")[1]
    assert abs(sampled.mean() - exact) < 4.5 * error  # false alarms: 7e-6 of seeds
    mixed = found.covariance_of("theta", "p")[1]
    np.testing.assert_allclose(mixed, found.covariance[1, :DIM, DIM:])


def test_a_coordinate_without_noise_keeps_its_second_moment_at_zero() -> None:
    quadratic = Quadratic(np.eye(2), np.zeros(2), np.diag([1.0, 0.0]))
    found = rmsprop_sde_moments(
        quadratic,
        learning_rate=0.2,
        beta=0.9,
        epsilon=0.5,
        sigma=2.0,
        theta0=[1.0, 1.0],
        u0=[1.0, 0.0],
        times=[0.3],
    )
    np.testing.assert_allclose(found.mean_of("u")[0], [1.0, 0.0], rtol=1e-14)
    np.testing.assert_allclose(found.mean_of("theta")[0], np.exp([-0.6, -3.0]), rtol=1e-11)


def test_moments_that_are_too_stiff_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_moments, "MAX_EVALUATIONS", 50)
    with pytest.raises(InconclusiveError, match="too stiff"):
        sgd_sde_moments(
            QUADRATIC,
            learning_rate=0.1,
            sigma=1.0,
            theta0=THETA0,
            times=[1000.0],
            ratio=lambda step: 1.0,
        )


BAD_QUADRATICS = {
    "shapes do not fit": (np.eye(2), np.zeros(3), np.eye(3), "must have shape"),
    "hessian not symmetric": (np.array([[1.0, 0.5], [0.0, 1.0]]), np.zeros(2), np.eye(2), "symm"),
    "noise not a covariance": (np.eye(2), np.zeros(2), np.diag([1.0, -1.0]), "semi-definite"),
}


@pytest.mark.parametrize("arguments", BAD_QUADRATICS.values(), ids=BAD_QUADRATICS.keys())
def test_a_quadratic_that_is_none_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInputError, match=arguments[3]):
        Quadratic(*arguments[:3])


BAD_ARGUMENTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "Adam from time 0": ("Adam", {"start_time": 0.0}, "singular at time 0"),
    "u from 0": ("RMSprop", {"u0": [1.0, 0.0, 1.0]}, "u0 must be positive"),
    "times go back": ("RMSprop", {"times": [1.0, 0.5]}, "ascending"),
    "times before the start": ("Adam", {"times": [0.1]}, "ascending"),
    "theta0 of the wrong size": ("Adam", {"theta0": [1.0, 2.0]}, r"theta0 .* shape \(3,\)"),
    "covariance0 of the wrong size": ("Adam", {"covariance0": np.eye(3)}, "covariance0"),
}


@pytest.mark.parametrize("bad", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments_are_refused(bad: tuple[str, dict[str, Any], str]) -> None:
    name, change, message = bad
    _, moments, arguments, start = CASES[name]
    usual = {"sigma": SIGMA, "times": [start + 1.0], "start_time": start}
    with pytest.raises(InvalidInputError, match=message):
        moments(QUADRATIC, **{**usual, **arguments, **change})


def test_a_denominator_of_zero_is_refused() -> None:
    quadratic = Quadratic(np.eye(2), np.zeros(2), np.diag([1.0, 0.0]))
    with pytest.raises(InvalidInputError, match="epsilon > 0"):
        rmsprop_sde_moments(
            quadratic,
            learning_rate=0.2,
            beta=0.9,
            epsilon=0.0,
            sigma=2.0,
            theta0=[1.0, 1.0],
            u0=[1.0, 0.0],
            times=[0.3],
        )


def test_an_unknown_component_is_named() -> None:
    found = sgd_sde_moments(QUADRATIC, learning_rate=0.1, sigma=1.0, theta0=THETA0, times=[1.0])
    with pytest.raises(InvalidInputError, match="no component 'u'; choose among theta"):
        found.mean_of("u")


def observables() -> list[Observable]:
    """Linear and quadratic ones of theta, and their coefficients (Q, b) below."""
    q, b = tensor(QUADRATIC_FORM), tensor(LINEAR_FORM)
    return [
        Observable("linear", lambda state: state.theta @ b),
        Observable("quadratic", lambda state: ((state.theta @ q) * state.theta).sum(-1)),
    ]


QUADRATIC_FORM = np.array([[1.0, 0.3, 0.0], [0.3, -0.5, 0.2], [0.0, 0.2, 0.8]])
LINEAR_FORM = np.array([1.0, -0.5, 0.3])


def exact_values(found: linear_moments.Moments) -> np.ndarray:
    """The two expectations over the times, shape `(time, observable)`."""
    linear = found.expectation_of_quadratic(vector=LINEAR_FORM)
    return np.stack([linear, found.expectation_of_quadratic(QUADRATIC_FORM)], axis=-1)


@pytest.mark.parametrize("name", ["damped momentum", "RMSprop with groups", "AdamW with groups"])
def test_an_ensemble_of_the_coded_sde_has_these_expectations(name: str) -> None:
    """Means of 8,000 paths at 3 times of 2 observables; false alarms: 6 x 6.3e-5 = 4e-4 of seeds.

    The integrator's steps are extrapolated away to well below one standard error.
    """
    optimizer, moments, arguments, _ = CASES[name]
    buffers = {n[:-1]: tensor(v) for n, v in arguments.items() if n.endswith("0")}
    start, steps = State(5, **buffers), [2, 5, 10]
    times = (start.step + np.array(steps)) * optimizer.time_per_step
    path = solve(
        derive(optimizer, oracle()),
        start,
        steps,
        observables(),
        replicas=8_000,
        substeps=(4, 8),
        seed=11,
        block_size=4_000,
    )
    found = moments(
        QUADRATIC,
        sigma=SIGMA,
        times=times,
        start_time=start.step * optimizer.time_per_step,
        **arguments,
    )
    error = path["extrapolated"].values[1:] - exact_values(found)
    scale = path["extrapolated_standard_error"].values[1:]
    assert np.all(scale < 0.05)
    assert np.all(np.abs(error) < 4.0 * scale)
