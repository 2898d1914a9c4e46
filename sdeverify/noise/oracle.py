"""The gradient oracle, the one thing on which an optimizer and its SDE must agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Normals, Parameters, Tensor
from sdeverify.noise.amplified import AmplifiedNoise
from sdeverify.noise.covariance import GradientValues
from sdeverify.noise.gaussian import GaussianSurrogate
from sdeverify.noise.noise import Atoms, Noise
from sdeverify.problems.problem import Problem


@dataclass(frozen=True)
class GradientOracle:
    """g = grad f(theta) + sigma z, with E z = 0 and cov z = Sigma(theta).

    The "noisy gradient oracle with scale" of Malladi, Lyu, Panigrahi, Arora 2022 (arXiv
    2205.10287, definition 2.1), on ensembles: theta has shape `(replica, param)`.

    Args:
        problem: gives f and the per-sample gradients.
        noise: gives sigma, Sigma and the way in which one gradient is drawn.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(4))
        >>> theta = torch.zeros(2, 1).double()
        >>> oracle.scale, tuple(oracle.variance(theta).shape)
        (0.5, (2, 1))
    """

    problem: Problem
    noise: Noise

    @property
    def dim(self) -> int:
        """The number of parameters."""
        return self.problem.dim

    @cached_property
    def scale(self) -> float:
        """The noise scale sigma."""
        return self.noise.scale(self.problem)

    @property
    def noise_dim(self) -> int:
        """The number of normals z in F z."""
        return self.noise.covariance.dimension(self.problem)

    def mean(self, theta: Parameters) -> Parameters:
        """grad f(theta)."""
        return self.problem.gradient(theta)

    def mean_and_variance(self, theta: Parameters) -> tuple[Tensor, Tensor]:
        """grad f and diag Sigma, together in one pass."""
        return self.noise.covariance.mean_and_variance(self.problem, theta)

    def variance(self, theta: Parameters) -> Parameters:
        """diag Sigma(theta); the variance of one sampled gradient is sigma^2 times that."""
        return self.mean_and_variance(theta)[1]

    def noise_product(self, theta: Parameters, z: Normals) -> Parameters:
        """F(theta) z with F F^T = Sigma; no matrix is formed."""
        return self.noise.covariance.product(self.problem, theta, z)

    def increment(
        self,
        theta: Parameters,
        dt: float,
        intensity: float,
        dW: Normals,
        with_variance: bool = False,
    ) -> GradientValues:
        """(grad f) dt + intensity F dW as one weighted gradient, and diag Sigma where asked for."""
        return self.noise.covariance.increment(
            self.problem, theta, dt, intensity, dW, with_variance
        )

    def draw(self, streams: Streams, k: int) -> Any:
        """The randomness of step k's gradients, apart from theta."""
        return self.noise.draw(self.problem, streams, k)

    def sample(self, theta: Parameters, draw: Any) -> Parameters:
        """The noisy gradients of a draw at theta."""
        return self.noise.gradient(self.problem, theta, draw)

    def atoms(self) -> Atoms:
        """The finite distribution of g: weights and gradients at theta, for the exact route."""
        return self.noise.atoms(self.problem)

    def amplified(self, amplification: float) -> GradientOracle:
        """The oracle with `amplification` times the noise scale; itself for 1."""
        if amplification == 1:
            return self
        return replace(self, noise=AmplifiedNoise(self.noise, amplification))

    def gaussian(self) -> GradientOracle:
        """The Gaussian surrogate: normal noise with the same mean, covariance and scale."""
        return replace(self, noise=GaussianSurrogate(self.noise))
