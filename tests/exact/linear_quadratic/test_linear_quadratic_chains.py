"""The recursions of discrete moments against the coded optimizers, and against the SDEs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from moment_equations.chains import momentum_chain_moments, sgd_chain_moments
from moment_equations.moments import Moments
from moment_equations.quadratic import Quadratic
from moment_equations.sdes import momentum_sde_moments, sgd_sde_moments
from scipy.stats import chi2

from sdeverify.base.state import State
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.solve import simulate
from sdeverify.errors import InvalidInputError
from sdeverify.noise import GaussianNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Optimizer, SGDMomentum
from sdeverify.problems.problem import FunctionProblem

HESSIAN = np.array([[1.2, 0.3], [0.3, 0.7]])
MINIMUM = np.array([0.4, -0.6])
FACTOR = np.array([[0.9, 0.0], [0.4, 0.7]])
THETA0 = np.array([1.5, -1.0])
P0 = np.array([0.3, -0.2])
SIGMA = 1.3
QUADRATIC = Quadratic(HESSIAN, MINIMUM, FACTOR @ FACTOR.T)
OBSERVABLE = np.array([[1.0, 0.4], [0.0, -0.5]])
RATES = np.array([1.0, 0.3])


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ratio(step: float) -> np.ndarray:
    return RATES / (1 + step)


def oracle() -> GradientOracle:
    hessian, minimum = tensor(HESSIAN), tensor(MINIMUM)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return (0.5 * (theta - minimum) @ hessian @ (theta - minimum)).reshape(1)

    problem = FunctionProblem(loss, dim=2, samples=1)
    return GradientOracle(problem, GaussianNoise(tensor(FACTOR), SIGMA, nodes=2))


Case = tuple[Optimizer, Callable[..., Moments], dict[str, Any], int]

CASES: dict[str, Case] = {
    "SGD": (SGD(learning_rate=0.3), sgd_chain_moments, {"learning_rate": 0.3}, 0),
    "SGD with decay and schedule": (
        SGD(
            learning_rate=0.3,
            weight_decay=tensor(np.array([0.1, 0.4])),
            learning_rate_ratio=lambda step: tensor(ratio(step)),
        ),
        sgd_chain_moments,
        {"learning_rate": 0.3, "weight_decay": [0.1, 0.4], "ratio": ratio},
        2,
    ),
    "momentum": (
        SGDMomentum(learning_rate=0.2, momentum=0.7, weight_decay=0.1),
        momentum_chain_moments,
        {"learning_rate": 0.2, "momentum": 0.7, "weight_decay": 0.1, "p0": P0},
        4,
    ),
    "momentum damped from the very first step": (
        SGDMomentum(learning_rate=0.2, momentum=0.7, dampening=0.4),
        momentum_chain_moments,
        {"learning_rate": 0.2, "momentum": 0.7, "dampening": 0.4, "p0": np.zeros(2)},
        0,
    ),
    "Nesterov with decay, groups and schedule": (
        SGDMomentum(
            learning_rate=0.2,
            momentum=tensor(np.array([0.9, 0.4])),
            nesterov=True,
            weight_decay=0.2,
            learning_rate_ratio=lambda step: tensor(ratio(step)),
        ),
        momentum_chain_moments,
        {
            "learning_rate": 0.2,
            "momentum": [0.9, 0.4],
            "nesterov": True,
            "weight_decay": 0.2,
            "ratio": ratio,
            "p0": P0,
        },
        1,
    ),
}


def moments_of_coded(
    optimizer: Optimizer, start: State, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance after some steps, from every sequence of the oracle's atoms.

    Two Gauss-Hermite nodes in each noise dimension are exact for second moments here, since the
    state is linear in the noise.
    """
    source = oracle()
    atoms = source.atoms()
    y, chance = optimizer.from_sde(start.expand(1), source), torch.ones(1, dtype=torch.float64)
    k = round(start.step)
    for _ in range(steps):
        gradients = atoms.gradients(y["theta"])
        count = gradients.shape[1]
        wide = {name: part.repeat_interleave(count, 0) for name, part in y.items()}
        y = optimizer.step(k, wide, gradients.flatten(0, 1))
        chance = torch.outer(chance, atoms.weights).flatten()
        k += 1
    state = optimizer.to_sde(k, y, source)
    packed = torch.cat([state.components[c] for c in optimizer.sde_components], 1).numpy()
    weights = chance.numpy()
    mean = weights @ packed
    return mean, (packed - mean).T @ (weights[:, None] * (packed - mean))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_recursion_equals_the_coded_step_over_all_atoms(case: Case) -> None:
    optimizer, moments, arguments, start = case
    found = moments(
        QUADRATIC,
        sigma=SIGMA,
        theta0=THETA0,
        steps=[start, start + 1, start + 3],
        start_step=start,
        **arguments,
    )
    p0 = {"p": tensor(arguments["p0"])} if "p0" in arguments else {}
    state = State(start, theta=tensor(THETA0), **p0)
    for i, count in enumerate((0, 1, 3)):
        mean, covariance = moments_of_coded(optimizer, state, count)
        np.testing.assert_allclose(found.mean[i], mean, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.covariance[i], covariance, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.times, found.steps * optimizer.time_per_step)


def coordinate(component: str, index: int) -> Observable:
    return Observable(f"{component}{index}", lambda s: s.components[component][:, index])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_ensemble_of_the_coded_optimizer_has_these_moments(case: Case) -> None:
    """Exact chi-square laws of Gaussian states; false alarms: 4e-5 of seeds in each case."""
    optimizer, moments, arguments, start = case
    replicas, steps, source = 20_000, 12, oracle()
    found = moments(
        QUADRATIC,
        sigma=SIGMA,
        theta0=THETA0,
        steps=[start + steps],
        start_step=start,
        **arguments,
    )
    p0 = {"p": tensor(arguments["p0"])} if "p0" in arguments else {}
    chain = simulate(
        optimizer,
        source,
        State(start, theta=tensor(THETA0), **p0),
        [steps],
        [coordinate(c, i) for c in optimizer.sde_components for i in range(2)],
        replicas=replicas,
        seed=5,
        block_size=replicas // 4,
        keep_replicas=True,
    )
    packed = chain["replicas"].values[:, -1]
    away = packed - found.mean[0]
    inverse = np.linalg.inv(found.covariance[0])
    about_mean = replicas * away.mean(0) @ inverse @ away.mean(0)
    assert chi2.sf(about_mean, packed.shape[1]) > 2e-5
    spread = np.einsum("ri,ij,rj->", away, inverse, away)
    low, high = chi2.ppf([1e-5, 1 - 1e-5], packed.size)
    assert low < spread < high


def sgd_error(
    learning_rate: float, horizon: float, sigma: float = SIGMA, wrong: float = 1
) -> float:
    """E phi of SGD minus that of its SDE, whose noise is `wrong` times what it should be."""
    common: dict[str, Any] = {"learning_rate": learning_rate, "theta0": THETA0}
    steps = round(horizon / learning_rate)
    chain = sgd_chain_moments(QUADRATIC, sigma=sigma, steps=[steps], **common)
    sde = sgd_sde_moments(QUADRATIC, sigma=wrong * sigma, times=[horizon], **common)
    pair = [m.expectation_of_quadratic(OBSERVABLE, [0.5, 1.0])[0] for m in (chain, sde)]
    return float(pair[0] - pair[1])


def momentum_error(h: float, horizon: float, fixed_momentum: float | None = None) -> float:
    """E phi of momentum minus that of its SDE, with friction 1.5 and damping 0.2."""
    mu = 1 - 1.5 * h if fixed_momentum is None else fixed_momentum
    common: dict[str, Any] = {
        "learning_rate": h**2 / 0.8,
        "dampening": 0.2,
        "sigma": SIGMA,
        "theta0": THETA0,
        "p0": P0,
    }
    steps = round(horizon / h)
    chain = momentum_chain_moments(
        QUADRATIC, momentum=mu, steps=[1 + steps], start_step=1, **common
    )
    sde = momentum_sde_moments(
        QUADRATIC, momentum=1 - 1.5 * h, times=[h + horizon], start_time=h, **common
    )
    pair = [m.expectation_of_quadratic(OBSERVABLE, [0.5, 1.0])[0] for m in (chain, sde)]
    return float(pair[0] - pair[1])


def local_slopes(errors: list[float]) -> np.ndarray:
    """log2 of the ratios of the errors of steps that are halved each time."""
    return -np.diff(np.log2(np.abs(errors)))


def test_the_weak_error_of_sgd_falls_with_order_one_exactly() -> None:
    slopes = local_slopes([sgd_error(0.2 / 2**j, 2.0) for j in range(8)])
    distances = np.abs(slopes - 1)
    assert distances[-1] < 1e-2
    np.testing.assert_allclose(distances[-3:-1] / distances[-2:], 2.0, rtol=0.1)


def test_the_weak_error_of_momentum_falls_with_order_one_exactly() -> None:
    slopes = local_slopes([momentum_error(0.2 / 2**j, 2.0) for j in range(8)])
    distances = np.abs(slopes - 1)
    assert distances[-1] < 1e-2
    np.testing.assert_allclose(distances[-3:-1] / distances[-2:], 2.0, rtol=0.1)


def test_the_learning_rate_ladder_of_sgd_does_not_see_doubled_noise_but_svag_does() -> None:
    ladder = [sgd_error(0.2 / 2**j, 2.0, wrong=2.0) for j in range(8)]
    assert abs(local_slopes(ladder)[-1] - 1) < 1e-2
    svag = [sgd_error(0.2 / 2**j, 2.0, SIGMA * 2 ** (j / 2)) for j in range(8)]
    assert abs(local_slopes(svag)[-1] - 1) < 1e-2
    wrong = [sgd_error(0.2 / 2**j, 2.0, SIGMA * 2 ** (j / 2), wrong=2.0) for j in range(8)]
    assert abs(local_slopes(wrong)[-1]) < 1e-2


def test_momentum_with_mu_held_fixed_does_not_converge() -> None:
    errors = [momentum_error(0.2 / 2**j, 2.0, fixed_momentum=0.7) for j in range(8)]
    assert np.all(np.diff(np.abs(errors)) > 0)
    assert abs(errors[-1]) > 1.5


def test_starting_again_from_the_moments_on_the_way_changes_nothing() -> None:
    arguments: dict[str, Any] = {"learning_rate": 0.2, "momentum": 0.7, "sigma": SIGMA}
    whole = momentum_chain_moments(QUADRATIC, theta0=THETA0, p0=P0, steps=[3, 8], **arguments)
    second = momentum_chain_moments(
        QUADRATIC,
        theta0=whole.mean_of("theta")[0],
        p0=whole.mean_of("p")[0],
        covariance0=whole.covariance[0],
        start_step=3,
        steps=[8],
        **arguments,
    )
    np.testing.assert_allclose(second.mean[0], whole.mean[1], rtol=1e-13)
    np.testing.assert_allclose(second.covariance[0], whole.covariance[1], rtol=1e-13, atol=1e-15)


def test_fractions_of_a_step_and_damped_nesterov_are_refused() -> None:
    common: dict[str, Any] = {"learning_rate": 0.1, "sigma": 1.0, "theta0": THETA0}
    with pytest.raises(InvalidInputError, match="whole numbers"):
        sgd_chain_moments(QUADRATIC, steps=[0.5], **common)
    with pytest.raises(InvalidInputError, match="needs dampening = 0"):
        momentum_chain_moments(
            QUADRATIC, momentum=0.9, p0=P0, dampening=0.1, nesterov=True, steps=[1], **common
        )
