"""The random input of an Euler-Maruyama step: full batch, or a fresh subset of the samples.

Increments over neighbouring intervals merge into one over their union, so that several step
sizes are driven by one Brownian path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.covariance import GradientValues, SampleCovariance, centred, diagonal
from sdeverify.rng import Streams
from sdeverify.sdes.sde import GradientSDE
from sdeverify.shapes import Float, Tensor


class Increment(NamedTuple):
    """An interval's length and randomness.

    `noise` is dW `(replica, noise)` for a full batch; for subsets the samples' weights, with
    `indices` `(replica, n)` of the samples.
    """

    dt: float
    noise: Tensor
    indices: Tensor | None


class Increments(ABC):
    """Draws, merges and evaluates increments."""

    @abstractmethod
    def check(self, sde: GradientSDE, dt: float) -> None:
        """Refuses an SDE or a step that this form cannot serve, before any work."""

    @abstractmethod
    def draw(self, streams: Streams, sde: GradientSDE, dt: float) -> Increment:
        """A fresh increment over dt for the replicas of the streams."""

    @abstractmethod
    def merge(self, parts: Sequence[Increment]) -> Increment:
        """The increment over the union of neighbouring intervals."""

    @abstractmethod
    def evaluate(
        self, sde: GradientSDE, theta: Float[Tensor, "replica param"], increment: Increment
    ) -> GradientValues:
        """dG = (grad f) dt + s F dW at theta, with the moments that the SDE reads."""


@dataclass(frozen=True)
class FullBatch(Increments):
    """dG from all N samples: exact drift, exact covariance.

    Args:
        one_gradient: replace diag Sigma by (dG)^2/(s^2 dt), which has its mean up to O(dt), so that
            an adaptive SDE's step costs one weighted gradient. Weak order 1 is kept, with a larger
            constant.
    """

    one_gradient: bool = False

    def check(self, sde: GradientSDE, dt: float) -> None:
        if self.one_gradient and sde.uses_moments and sde.constants.get("signal"):
            raise UnsupportedError(
                "the one-gradient form has no mean gradient to keep the signal with; got an SDE "
                "with keep_signal=True. Use one_gradient=False."
            )

    def draw(self, streams: Streams, sde: GradientSDE, dt: float) -> Increment:
        return Increment(dt, streams.normal(sde.noise_dim).mul_(math.sqrt(dt)), None)

    def merge(self, parts: Sequence[Increment]) -> Increment:
        noise = torch.stack([p.noise for p in parts]).sum(0)
        return Increment(math.fsum(p.dt for p in parts), noise, None)

    def evaluate(
        self, sde: GradientSDE, theta: Float[Tensor, "replica param"], increment: Increment
    ) -> GradientValues:
        dt, dW = increment.dt, increment.noise.to(theta.dtype)
        moments = sde.uses_moments and not self.one_gradient
        values = sde.oracle.increment(theta, dt, sde.intensity, dW, with_variance=moments)
        if self.one_gradient and sde.uses_moments:
            square = values.increment.square() / (sde.intensity**2 * dt)
            return GradientValues(values.increment, torch.zeros_like(square), square)
        return values


@dataclass(frozen=True)
class Subsampled(Increments):
    """dG from n samples drawn afresh with replacement at each step.

    Weights dt/n + s' (xi_i - mean xi)/sqrt(n) with s'^2 = (s^2 dt - dt^2/n) n/(n - 1): drift noise
    and diffusion together have exactly the covariance s^2 dt Sigma, and weak order 1 is kept.

    Args:
        samples: n >= 2.
    """

    samples: int

    def check(self, sde: GradientSDE, dt: float) -> None:
        if self.samples < 2:
            raise InvalidInputError(f"a subset needs at least 2 samples; got {self.samples}.")
        if not isinstance(sde.oracle.noise.covariance, SampleCovariance):
            raise UnsupportedError(
                "sub-sampling needs the covariance of a finite sum of losses; got "
                f"{type(sde.oracle.noise).__name__}. Use subsample=0 (full batch)."
            )
        if sde.uses_moments and sde.constants.get("signal"):
            raise UnsupportedError(
                "a subset cannot keep the signal (grad f)^2 without bias; got keep_signal=True. "
                "Use subsample=0 (full batch)."
            )
        if sde.intensity**2 < dt / self.samples:
            least = math.ceil(dt / sde.intensity**2)
            raise InvalidInputError(
                f"a subset of {self.samples} samples is noisier than the SDE over a step of "
                f"{dt:g}. Use subsample >= {least}, or more substeps."
            )

    def draw(self, streams: Streams, sde: GradientSDE, dt: float) -> Increment:
        n = self.samples
        indices = streams.integers(sde.oracle.problem.samples, n)
        spread = math.sqrt((sde.intensity**2 * dt - dt**2 / n) * n / (n - 1))
        weights = dt / n + (spread / math.sqrt(n)) * centred(streams.normal(n))
        return Increment(dt, weights, indices)

    def merge(self, parts: Sequence[Increment]) -> Increment:
        indices = torch.cat([p.indices for p in parts if p.indices is not None], 1)
        return Increment(
            math.fsum(p.dt for p in parts), torch.cat([p.noise for p in parts], 1), indices
        )

    def evaluate(
        self, sde: GradientSDE, theta: Float[Tensor, "replica param"], increment: Increment
    ) -> GradientValues:
        problem, weights = sde.oracle.problem, increment.noise.to(theta.dtype)
        if not sde.uses_moments:
            weighted = problem.weighted_gradient(theta, weights, increment.indices)
            return GradientValues(weighted, None, None)
        moments = problem.weighted_moments(theta, weights, increment.indices)
        n = weights.shape[1]
        variance = diagonal(moments.mean, moments.second) * (n / (n - 1))
        return GradientValues(moments.weighted, moments.mean, variance)
