"""The covariance Sigma(theta) of one noisy gradient, never formed: products and diagonal."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch

from sdeverify.base.shapes import Float, Normals, Parameters, Tensor, Vector
from sdeverify.problems.problem import Problem

ROWS = 64
"""At most so many replicas are multiplied as one row."""


class GradientValues(NamedTuple):
    """What a step of an SDE needs of the gradient.

    `increment` is dG = (grad f) dt + s F dW; `mean` (grad f) and `variance` (diag Sigma) are
    there only where they were asked for.
    """

    increment: Parameters
    mean: Parameters | None
    variance: Parameters | None


class Covariance(ABC):
    """Sigma(theta) = F F^T, known through products `F z` with standard normals z."""

    of_uniform_samples: ClassVar[bool] = False
    """Whether Sigma is the covariance of grad l_i, i uniform: a uniform subset can estimate it."""

    @abstractmethod
    def dimension(self, problem: Problem) -> int:
        """The number of normals in z, the columns of F."""

    @abstractmethod
    def product(
        self,
        problem: Problem,
        theta: Parameters,
        z: Normals,
    ) -> Parameters:
        """F(theta) z."""

    @abstractmethod
    def mean_and_variance(self, problem: Problem, theta: Parameters) -> tuple[Tensor, Tensor]:
        """grad f and diag Sigma, each of shape (replica, param)."""

    def increment(
        self,
        problem: Problem,
        theta: Parameters,
        dt: float,
        intensity: float,
        dW: Normals,
        with_variance: bool,
    ) -> GradientValues:
        """(grad f) dt + intensity F dW, with dW of variance dt, and the moments where asked for."""
        noise = intensity * self.product(problem, theta, dW)
        if not with_variance:
            return GradientValues(noise + dt * problem.gradient(theta), None, None)
        mean, variance = self.mean_and_variance(problem, theta)
        return GradientValues(noise + dt * mean, mean, variance)


@dataclass(frozen=True)
class SampleCovariance(Covariance):
    """Sigma = (1/N) sum_i (g_i - grad f)(g_i - grad f)^T, F z = N^(-1/2) sum_i (g_i - grad f) z_i.

    F z is the gradient of one weighted loss, with weights (z_i - mean z)/sqrt(N); so is a whole
    Euler-Maruyama increment, with weights dt/N + s (dW_i - mean dW)/sqrt(N).
    """

    of_uniform_samples = True

    def dimension(self, problem: Problem) -> int:
        return problem.samples

    def product(
        self,
        problem: Problem,
        theta: Parameters,
        z: Normals,
    ) -> Parameters:
        return problem.weighted_gradient(theta, centred(z) / math.sqrt(problem.samples))

    def mean_and_variance(self, problem: Problem, theta: Parameters) -> tuple[Tensor, Tensor]:
        weights = theta.new_zeros((theta.shape[0], problem.samples))
        moments = problem.weighted_moments(theta, weights)
        return moments.mean, diagonal(moments.mean, moments.second)

    def increment(
        self,
        problem: Problem,
        theta: Parameters,
        dt: float,
        intensity: float,
        dW: Normals,
        with_variance: bool,
    ) -> GradientValues:
        n = problem.samples
        weights = centred(dW).mul_(intensity / math.sqrt(n)).add_(dt / n)
        if not with_variance:
            return GradientValues(problem.weighted_gradient(theta, weights), None, None)
        moments = problem.weighted_moments(theta, weights)
        return GradientValues(
            moments.weighted, moments.mean, diagonal(moments.mean, moments.second)
        )


class ExplicitCovariance(Covariance):
    """Sigma(theta) = F(theta) F(theta)^T from a factor that can be written down."""

    @abstractmethod
    def factor(self, theta: Parameters) -> Float[Tensor, "replica param noise"]:
        """F(theta)."""

    @abstractmethod
    def scaled_product(self, theta: Parameters, z: Normals, size: float) -> Parameters:
        """size F(theta) z, in fresh memory."""

    @abstractmethod
    def variance(self, theta: Parameters) -> Parameters:
        """diag Sigma."""

    def product(
        self,
        problem: Problem,
        theta: Parameters,
        z: Normals,
    ) -> Parameters:
        return self.scaled_product(theta, z, 1.0)

    def mean_and_variance(self, problem: Problem, theta: Parameters) -> tuple[Tensor, Tensor]:
        return problem.gradient(theta), self.variance(theta)

    def increment(
        self,
        problem: Problem,
        theta: Parameters,
        dt: float,
        intensity: float,
        dW: Normals,
        with_variance: bool,
    ) -> GradientValues:
        mean = problem.gradient(theta)
        kick = self.scaled_product(theta, dW, intensity).add_(mean, alpha=dt)
        if not with_variance:
            return GradientValues(kick, None, None)
        return GradientValues(kick, mean, self.variance(theta))


@dataclass(frozen=True)
class FactorCovariance(ExplicitCovariance):
    """Sigma(theta) = F(theta) F(theta)^T from a factor given as a function.

    Args:
        function: maps theta `(replica, param)` to F `(replica, param, noise)`.
        columns: the number of columns of F.
    """

    function: Callable[[Tensor], Tensor]
    columns: int

    def dimension(self, problem: Problem) -> int:
        return self.columns

    def factor(self, theta: Parameters) -> Float[Tensor, "replica param noise"]:
        return self.function(theta)

    def scaled_product(self, theta: Parameters, z: Normals, size: float) -> Parameters:
        return torch.einsum("rdm,rm->rd", self.function(theta), z).mul_(size)

    def variance(self, theta: Parameters) -> Parameters:
        return self.function(theta).square().sum(-1)


@dataclass(frozen=True, eq=False)
class ConstantCovariance(ExplicitCovariance):
    """Sigma = F F^T from one matrix F, the same at every theta: products are one matrix product.

    Args:
        matrix: F, shape `(param, noise)`.
    """

    matrix: Float[Tensor, "param noise"]

    def dimension(self, problem: Problem) -> int:
        return self.matrix.shape[1]

    def factor(self, theta: Parameters) -> Float[Tensor, "replica param noise"]:
        return self.matrix.to(theta).expand(len(theta), *self.matrix.shape)

    def scaled_product(self, theta: Parameters, z: Normals, size: float) -> Parameters:
        return (z @ self.matrix.to(theta).mT).mul_(size)

    def variance(self, theta: Parameters) -> Parameters:
        return self.matrix.to(theta).square().sum(-1).expand_as(theta)


@dataclass(frozen=True, eq=False)
class DiagonalCovariance(ExplicitCovariance):
    """Sigma = diag(s^2), the same at every theta: one normal a parameter, of its own size.

    Args:
        sizes: s, shape `(param,)`.
    """

    sizes: Vector

    def dimension(self, problem: Problem) -> int:
        return len(self.sizes)

    def factor(self, theta: Parameters) -> Float[Tensor, "replica param noise"]:
        return torch.diag(self.sizes.to(theta)).expand(len(theta), -1, -1)

    def scaled_product(self, theta: Parameters, z: Normals, size: float) -> Parameters:
        """size s z, with several replicas in a row: few parameters make short inner loops."""
        width = math.gcd(len(z), ROWS) * len(self.sizes)
        sizes = self._rows[:width].to(z) * size
        return (z.reshape(-1, width) * sizes).view_as(z)

    def variance(self, theta: Parameters) -> Parameters:
        return self.sizes.to(theta).square().expand_as(theta)

    @cached_property
    def _rows(self) -> Tensor:
        return self.sizes.repeat(ROWS)


def centred(z: Tensor) -> Tensor:
    """z minus its mean over the last dimension."""
    return z - z.mean(-1, keepdim=True)


def diagonal(mean: Tensor, second: Tensor) -> Tensor:
    """diag Sigma = mean g^2 - (mean g)^2, with rounding below 0 removed.

    A difference within rounding of the second moment is 0: constant inputs have no noise.
    """
    difference = torch.addcmul(second, mean, mean, value=-1)
    floor = second * (8 * torch.finfo(second.dtype).eps)
    return difference.masked_fill_(difference <= floor, 0.0)
