"""Amplified noise, the noise of SVAG: the same mean and covariance, a times the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sdeverify.base.arguments import number
from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Parameters, Tensor
from sdeverify.errors import InvalidInputError
from sdeverify.noise.covariance import Covariance
from sdeverify.noise.noise import Atoms, Cumulants, Noise, no_atoms_above
from sdeverify.problems.problem import Problem


def amplification_weights(a: float) -> tuple[float, float]:
    """r_1, r_2 = (1 +- sqrt(2 a^2 - 1))/2, so that r_1 + r_2 = 1 and r_1^2 + r_2^2 = a^2."""
    if not number(a, "an amplification") >= 1:
        raise InvalidInputError(f"an amplification is at least 1; got {a}.")
    root = math.sqrt(2 * a * a - 1)
    return (1 + root) / 2, (1 - root) / 2


@dataclass(frozen=True)
class AmplifiedNoise(Noise):
    """r_1 g^(1) + r_2 g^(2) from two independent gradients: noise scale a sigma, no full gradient.

    Args:
        base: the noise of one gradient.
        amplification: a >= 1, real. (Li, Malladi, Arora 2021, section 4.)

    Example:
        >>> noise = sv.AmplifiedNoise(sv.MinibatchNoise(4), amplification=3.0)
        >>> noise.scale(circle_problem())
        1.5
    """

    base: Noise
    amplification: float

    def __post_init__(self) -> None:
        amplification_weights(self.amplification)
        if not self.base.independent_steps:
            raise InvalidInputError(
                f"{type(self.base).__name__} cannot be amplified: its gradients are not "
                "independent. Use MinibatchNoise."
            )

    @property
    def covariance(self) -> Covariance:
        return self.base.covariance

    def scale(self, problem: Problem) -> float:
        return self.amplification * self.base.scale(problem)

    def draw(self, problem: Problem, streams: Streams, k: int) -> Any:
        pair = [self.base.draw(problem, streams, k) for _ in range(2)]
        return self.base.combine(amplification_weights(self.amplification), pair)

    @property
    def normal(self) -> bool:
        return self.base.normal

    def cumulants(self, problem: Problem) -> Cumulants:
        """r_1^n + r_2^n times the base's n-th."""
        weights = amplification_weights(self.amplification)
        third, fourth = (sum(r**n for r in weights) for n in (3, 4))
        return self.base.cumulants(problem).scaled(third, fourth)

    def combine(self, coefficients: Sequence[float], draws: Sequence[Any]) -> Any:
        return self.base.combine(coefficients, draws)

    def gradient(self, problem: Problem, theta: Parameters, draw: Any) -> Parameters:
        return self.base.gradient(problem, theta, draw)

    def describe(self, problem: Problem) -> str:
        return f"{self.base.describe(problem)}, amplified {self.amplification:.6g} times"

    def numbers(self, problem: Problem) -> int:
        return 2 * self.base.numbers(problem)

    def gradient_samples(self, problem: Problem) -> int:
        return 2 * self.base.gradient_samples(problem)

    def rescaled(self, factor: float) -> AmplifiedNoise:
        return replace(self, base=self.base.rescaled(factor))

    def of_batch(self, kappa: float, problem: Problem) -> AmplifiedNoise:
        return replace(self, base=self.base.of_batch(kappa, problem))

    def largest_batch_factor(self, problem: Problem) -> float:
        return self.base.largest_batch_factor(problem)

    def atoms(self, problem: Problem) -> Atoms:
        """All ordered pairs of the base's atoms."""
        base = self.base.atoms(problem)
        count = base.weights.numel()
        no_atoms_above(200_000, count**2, self)
        r1, r2 = amplification_weights(self.amplification)
        weights = torch.outer(base.weights, base.weights).flatten()

        def gradients(theta: Tensor) -> Tensor:
            g = base.gradients(theta)
            return (r1 * g.unsqueeze(2) + r2 * g.unsqueeze(1)).flatten(1, 2)

        return Atoms(weights, gradients)
