"""The third cumulant of mini-batch noise from single samples, by listing every batch."""

from __future__ import annotations

import pytest
import torch

from sdeverify import FunctionProblem, GaussianNoise, GradientOracle, MinibatchNoise, Noise
from sdeverify.base.rng import Block, Streams
from sdeverify.noise.amplified import AmplifiedNoise


def third_moment(noise: Noise, problem: FunctionProblem, theta: torch.Tensor) -> torch.Tensor:
    """E z z z at a point, from the atoms."""
    atoms = noise.atoms(problem)
    z = atoms.gradients(theta)[0] - problem.gradient(theta)[0]
    return torch.einsum("a,ai,aj,ak->ijk", atoms.weights, z, z, z)


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
def test_the_factor_is_that_of_all_batches(
    noise: Noise, small_problem: FunctionProblem, theta: torch.Tensor
) -> None:
    single, factor = noise.third_cumulant(small_problem)
    for point in theta[:2]:
        whole = third_moment(noise, small_problem, point[None])
        one = third_moment(single, small_problem, point[None])
        assert whole.abs().max() > 1e-6 or factor == 0
        torch.testing.assert_close(factor * one, whole, rtol=1e-10, atol=1e-12)


def test_two_samples_without_replacement_have_none(theta: torch.Tensor) -> None:
    two = FunctionProblem(lambda x: torch.stack([x.cos().sum(), x.sin().sum()]), 3, 2)
    noise = MinibatchNoise(1, replacement=False)
    assert noise.third_cumulant(two)[1] == 0
    assert third_moment(noise, two, theta[:1]).abs().max() < 1e-12


def test_normal_noise_has_none_and_says_so(small_problem: FunctionProblem) -> None:
    oracle = GradientOracle(small_problem, MinibatchNoise(2))
    for noise in (oracle.gaussian().noise, oracle.gaussian().amplified(2.0).noise):
        assert noise.normal
        assert noise.third_cumulant(small_problem)[1] == 0
    assert GaussianNoise(torch.eye(3), 0.1).normal
    assert not oracle.amplified(2.0).noise.normal


def test_part_of_a_draw_repeats_replicas(small_oracle: GradientOracle) -> None:
    draw = small_oracle.draw(Streams(0, "batches", [Block(0, 4)]), 0)
    repeated = small_oracle.noise.part(draw, torch.tensor([2, 2, 0]))
    assert torch.equal(repeated.indices, draw.indices[[2, 2, 0]])
