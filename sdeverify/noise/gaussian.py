"""Gaussian gradient noise: with a factor of its own, or with another noise's covariance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from sdeverify.base.arguments import number, whole
from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Parameters, Tensor
from sdeverify.errors import InvalidInputError
from sdeverify.noise.covariance import (
    ConstantCovariance,
    Covariance,
    DiagonalCovariance,
    ExplicitCovariance,
    FactorCovariance,
)
from sdeverify.noise.noise import Atoms, Cumulants, Noise, no_atoms_above
from sdeverify.problems.problem import Problem


class NormalNoise(Noise):
    """z = F(theta) xi with xi ~ N(0, I): what Gaussian noises share. A draw is the tensor xi."""

    def draw(self, problem: Problem, streams: Streams, k: int) -> Tensor:
        return streams.normal(self.covariance.dimension(problem))

    @property
    def normal(self) -> bool:
        return True

    def cumulants(self, problem: Problem) -> Cumulants:
        return Cumulants(self, 0.0, 0.0, 0.0)

    def combine(self, coefficients: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
        terms = (c * d for c, d in zip(coefficients, draws, strict=True))
        return sum(terms, torch.zeros_like(draws[0]))

    def gradient(self, problem: Problem, theta: Parameters, draw: Tensor) -> Parameters:
        values = self.covariance.increment(
            problem, theta, 1.0, self.scale(problem), draw.to(theta.dtype), with_variance=False
        )
        return values.increment


@dataclass(frozen=True)
class GaussianNoise(NormalNoise):
    """g = grad f + sigma F(theta) xi.

    Args:
        factor: F, a matrix `(param, noise)`, the diagonal `(param,)` of one, or a function theta
            `(replica, param)` -> `(replica, param, noise)`.
        sigma: the noise scale.
        columns: the number of columns of F; needed only where `factor` is a function.
        nodes: Gauss-Hermite nodes for each noise dimension on the exact route.

    Example:
        >>> noise = sv.GaussianNoise(torch.tensor([0.5]), sigma=2.0)
        >>> oracle = sv.GradientOracle(circle_problem(), noise)
        >>> oracle.scale, oracle.variance(torch.zeros(1, 1).double()).item()
        (2.0, 0.25)
    """

    factor: Tensor | Callable[[Tensor], Tensor]
    sigma: float = 1.0
    columns: int | None = None
    nodes: int = 16

    def __post_init__(self) -> None:
        if not number(self.sigma, "sigma") >= 0:
            raise InvalidInputError(f"sigma must be >= 0; got {self.sigma}.")
        if not isinstance(self.factor, Tensor) and self.columns is None:
            raise InvalidInputError(
                "a factor given as a function needs columns=, its noise dimension."
            )
        for name, value in (("columns", self.columns), ("nodes", self.nodes)):
            if value is not None and whole(value, name) < 1:
                raise InvalidInputError(f"{name} must be >= 1; got {value}.")

    @cached_property
    def covariance(self) -> ExplicitCovariance:
        factor = self.factor
        if isinstance(factor, Tensor):
            return DiagonalCovariance(factor) if factor.dim() == 1 else ConstantCovariance(factor)
        assert self.columns is not None
        return FactorCovariance(factor, self.columns)

    def scale(self, problem: Problem) -> float:
        return self.sigma

    def describe(self, problem: Problem) -> str:
        return f"Gaussian noise with a given factor (sigma = {self.sigma:.6g})"

    def rescaled(self, factor: float) -> GaussianNoise:
        return replace(self, sigma=self.sigma * factor)

    def of_batch(self, kappa: float, problem: Problem) -> GaussianNoise:
        return replace(self, sigma=self.sigma / math.sqrt(kappa))

    def atoms(self, problem: Problem) -> Atoms:
        """Gauss-Hermite nodes, exact for polynomials of degree 2 nodes - 1 in each xi."""
        columns = self.covariance.dimension(problem)
        no_atoms_above(200_000, self.nodes**columns, self)
        points, weights = np.polynomial.hermite_e.hermegauss(self.nodes)
        weights = weights / math.sqrt(2 * math.pi)
        xi = _table(points, columns, problem)
        chances = _table(weights, columns, problem).prod(1)

        def gradients(theta: Tensor) -> Tensor:
            noise = torch.einsum("pdm,am->pad", self.covariance.factor(theta), xi)
            return problem.gradient(theta).unsqueeze(1) + self.sigma * noise

        return Atoms(chances, gradients)


@dataclass(frozen=True)
class GaussianSurrogate(NormalNoise):
    """Normal noise with the mean, covariance and scale of another noise.

    One Euler-Maruyama step of length eta of the first-order SDE of SGD is one step of SGD with
    this noise.

    Example:
        >>> noise = sv.GaussianSurrogate(sv.MinibatchNoise(4))
        >>> noise.scale(circle_problem())
        0.5
    """

    of: Noise

    @property
    def covariance(self) -> Covariance:
        return self.of.covariance

    def scale(self, problem: Problem) -> float:
        return self.of.scale(problem)

    def describe(self, problem: Problem) -> str:
        return f"Gaussian surrogate of {self.of.describe(problem)}"

    def rescaled(self, factor: float) -> GaussianSurrogate:
        return replace(self, of=self.of.rescaled(factor))

    def of_batch(self, kappa: float, problem: Problem) -> GaussianSurrogate:
        return replace(self, of=self.of.of_batch(kappa, problem))

    def largest_batch_factor(self, problem: Problem) -> float:
        return self.of.largest_batch_factor(problem)


def _table(values: NDArray[np.float64], columns: int, problem: Problem) -> Tensor:
    """All choices of one value for each column, `(choice, column)`."""
    rows = list(itertools.product(values.tolist(), repeat=columns))
    return torch.tensor(rows, dtype=problem.dtype, device=problem.device)
