"""The cumulants of mini-batch noise from single samples, by listing every batch."""

from __future__ import annotations

import pytest
import torch

from sdeverify import FunctionProblem, GaussianNoise, GradientOracle, MinibatchNoise, Noise
from sdeverify.base.rng import Block, Streams
from sdeverify.noise.amplified import AmplifiedNoise


def moment(noise: Noise, problem: FunctionProblem, theta: torch.Tensor, n: int) -> torch.Tensor:
    """E (a z)^n at a point for some fixed directions a, from the atoms."""
    atoms = noise.atoms(problem)
    z = atoms.gradients(theta)[0] - problem.gradient(theta)[0]
    a = torch.tensor([[1.0, 0, 0], [1, 1, -1], [0.3, -2, 1]], dtype=torch.float64)
    return atoms.weights @ (z @ a.mT) ** n


def check(noise: Noise, problem: FunctionProblem, theta: torch.Tensor) -> None:
    """Both cumulants along the directions are those that the factors tell."""
    c = noise.cumulants(problem)
    square, third, fourth = (moment(noise, problem, theta, n) for n in (2, 3, 4))
    v2, v3, v4 = (moment(c.noise, problem, theta, n) for n in (2, 3, 4))
    torch.testing.assert_close(c.third * v3, third, rtol=1e-10, atol=1e-12)
    wanted = fourth - 3 * square**2
    torch.testing.assert_close(c.fourth * v4 + c.pairs * v2**2, wanted, rtol=1e-9, atol=1e-12)
    assert wanted.abs().max() > 1e-6 or c.fourth == 0


@pytest.mark.parametrize(
    "noise",
    [
        MinibatchNoise(1),
        MinibatchNoise(3),
        MinibatchNoise(2, replacement=False),
        MinibatchNoise(5, replacement=False),
        MinibatchNoise(7, replacement=False),
        AmplifiedNoise(MinibatchNoise(2), 1.7),
        AmplifiedNoise(AmplifiedNoise(MinibatchNoise(1), 1.5), 2.0),
    ],
    ids=lambda noise: repr(noise)[:60],
)
def test_the_factors_are_those_of_all_batches(
    noise: Noise, small_problem: FunctionProblem, theta: torch.Tensor
) -> None:
    for point in theta[:2]:
        check(noise, small_problem, point[None])


@pytest.mark.parametrize(("samples", "batch"), [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 2)])
def test_few_samples_without_replacement(theta: torch.Tensor, samples: int, batch: int) -> None:
    g = torch.Generator().manual_seed(1)
    a = torch.randn(samples, 3, generator=g, dtype=torch.float64)
    few = FunctionProblem(lambda x: torch.cos(a @ x), 3, samples)
    check(MinibatchNoise(batch, replacement=False), few, theta[:1])


def test_normal_noise_has_none_and_says_so(small_problem: FunctionProblem) -> None:
    oracle = GradientOracle(small_problem, MinibatchNoise(2))
    for noise in (oracle.gaussian().noise, oracle.gaussian().amplified(2.0).noise):
        assert noise.normal
        c = noise.cumulants(small_problem)
        assert c.third == c.fourth == c.pairs == 0
    assert GaussianNoise(torch.eye(3), 0.1).normal
    assert not oracle.amplified(2.0).noise.normal


def test_part_of_a_draw_repeats_replicas(small_oracle: GradientOracle) -> None:
    draw = small_oracle.draw(Streams(0, "batches", [Block(0, 4)]), 0)
    repeated = small_oracle.noise.part(draw, torch.tensor([2, 2, 0]))
    assert torch.equal(repeated.indices, draw.indices[[2, 2, 0]])
