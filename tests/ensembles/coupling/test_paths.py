"""Discretisations on one Brownian path: each has its own law, and they share the noise."""

from __future__ import annotations

import pytest
import torch

from sdeverify import (
    SGD,
    Adam,
    FunctionProblem,
    GaussianNoise,
    GradientOracle,
    MinibatchNoise,
    Optimizer,
    RMSprop,
    SGDMomentum,
    State,
    derive,
    svag,
)
from sdeverify.base.rng import Block, Streams
from sdeverify.ensembles.coupling.paths import CoupledPaths, Discretisation, Euler, GaussianForm


def streams(block: Block) -> Streams:
    """Of one block, in double precision."""
    return Streams(3, "coupled paths", [block])


def test_one_step_of_the_gaussian_form_is_one_euler_step_of_sgd(
    small_oracle: GradientOracle, theta: torch.Tensor
) -> None:
    sgd = SGD(learning_rate=0.2)
    forms = [GaussianForm(sgd, small_oracle), Euler(derive(sgd, small_oracle), 1)]
    paths = CoupledPaths(forms, small_oracle.noise_dim)
    for own, euler in paths.run(State(0, theta=theta), 4, streams(Block(0, 4))):
        torch.testing.assert_close(own.theta, euler.theta, rtol=1e-12, atol=1e-12)


def test_all_forms_feel_the_same_noise() -> None:
    """Without a gradient and with constant noise every discretisation is the Brownian path."""
    flat = FunctionProblem(lambda x: 0 * x[:1], 2, 1)
    oracle = GradientOracle(flat, GaussianNoise(torch.eye(2, dtype=torch.float64), 0.5))
    sgd = SGD(learning_rate=0.3)
    sde = derive(sgd, oracle)
    forms: list[Discretisation] = [Euler(sde, n) for n in (1, 2, 3)]
    forms += [GaussianForm(*svag(sgd, oracle, level)) for level in (1, 1.5, 4)]
    paths = CoupledPaths(forms, 2)
    start = State(0, theta=torch.zeros(5, 2, dtype=torch.float64))
    for k, states in enumerate(paths.run(start, 4, streams(Block(0, 5)))):
        thetas = [state.theta for state in states]
        assert k == 0 or thetas[0].abs().min() > 0
        for form, theta in zip(forms[1:], thetas[1:], strict=True):
            if form.count(0, 2) % 2 == 0 or k % 2 == 0:
                torch.testing.assert_close(theta, thetas[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("level", [1, 4])
def test_the_gaussian_form_has_the_covariance_of_the_mini_batches(
    small_problem: FunctionProblem, theta: torch.Tensor, replacement: bool, level: float
) -> None:
    """Its step is linear in the normals, so the covariance is J J^T, exactly."""
    noise = MinibatchNoise(2, replacement)
    sgd = SGD(learning_rate=0.2)
    optimizer, oracle = svag(sgd, GradientOracle(small_problem, noise), level)
    form = GaussianForm(optimizer, oracle)
    units = torch.cat([torch.zeros(1, 7), torch.eye(7)]).to(torch.float64)
    moved = form.move(0, 0, {"theta": theta[:1].repeat(8, 1)}, units)["theta"]
    jacobian = (moved[1:] - moved[0]).mT
    atoms = oracle.atoms()
    gradients = atoms.gradients(theta[:1])[0]
    centred = gradients - small_problem.gradient(theta[:1])
    wanted = optimizer.learning_rate**2 * (centred.mT * atoms.weights) @ centred
    torch.testing.assert_close(jacobian @ jacobian.mT, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("optimizer", "start"),
    [
        (SGDMomentum(learning_rate=0.05, momentum=0.6), {"p": -0.2}),
        (RMSprop(learning_rate=0.1, beta=0.9, epsilon=0.1), {"u": 0.5}),
        (Adam(learning_rate=0.1, beta1=0.8, beta2=0.9, epsilon=0.1), {"m": 0.1, "u": 0.5}),
        (Adam(learning_rate=0.1, beta1=0.8, decoupled_weight_decay=0.3), {"m": 0.1, "u": 0.5}),
    ],
    ids=["momentum", "rmsprop", "adam", "adamw"],
)
def test_coupled_paths_stay_close_and_get_closer_along_levels(
    small_oracle: GradientOracle, optimizer: Optimizer, start: dict[str, float]
) -> None:
    """The strong distance to the SDE falls along SVAG levels, to below the spread."""
    at = {name: torch.full((64, 3), value).double() for name, value in start.items()}
    point = State(4, theta=torch.full((64, 3), 0.7, dtype=torch.float64), **at)
    sde = derive(optimizer, small_oracle)
    forms: list[Discretisation] = [
        GaussianForm(*svag(optimizer, small_oracle, level)) for level in (1, 4)
    ]
    paths = CoupledPaths([*forms, Euler(sde, 32)], small_oracle.noise_dim)
    *_, (coarse, fine, fluid) = paths.run(point, 6, streams(Block(0, 64)))
    distances = [(s.theta - fluid.theta).square().sum(1).mean().sqrt() for s in (coarse, fine)]
    spread = (fluid.theta - fluid.theta.mean(0)).square().sum(1).mean().sqrt()
    assert distances[1] < min(0.6 * distances[0], spread)


def test_a_part_of_a_block_sees_what_it_sees_within_the_whole(
    small_oracle: GradientOracle,
) -> None:
    sgd = SGD(learning_rate=0.2)
    forms = [GaussianForm(sgd, small_oracle), Euler(derive(sgd, small_oracle), 2)]
    paths = CoupledPaths(forms, small_oracle.noise_dim)
    point = State(0, theta=torch.full((3,), 0.7, dtype=torch.float64))

    def last(block: Block) -> torch.Tensor:
        *_, states = paths.run(point.expand(block.wanted), 3, streams(block))
        return torch.stack([s.theta for s in states])

    whole = last(Block(2, 6))
    parts = [last(Block(2, 6, first=0, last=4)), last(Block(2, 6, first=4, last=6))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
