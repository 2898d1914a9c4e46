"""The random input of an Euler-Maruyama step: full batch, or a fresh subset of the samples.

Increments over neighbouring intervals merge into one over their union, so that several step
sizes are driven by one Brownian path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch

from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Float, Parameters, Tensor
from sdeverify.base.state import Components
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.covariance import GradientValues, centred, diagonal
from sdeverify.noise.minibatch import multisets
from sdeverify.sdes.sde import GradientSDE


class Increment(NamedTuple):
    """An interval's length and randomness.

    `noise` is dW `(replica, noise)` for a full batch; for subsets the samples' weights, with
    `indices` `(replica, n)` of the samples.
    """

    dt: float
    noise: Tensor
    indices: Tensor | None

    def part(self, replicas: slice) -> Increment:
        """The increment of some of the replicas."""
        own = None if self.indices is None else self.indices[replicas]
        return Increment(self.dt, self.noise[replicas], own)


Move = Callable[[float, dict[str, Tensor], Increment], dict[str, Tensor]]
"""(t, state, increment) -> the state after one integrator step."""


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
    def evaluate(self, sde: GradientSDE, theta: Parameters, increment: Increment) -> GradientValues:
        """dG = (grad f) dt + s F dW at theta, with the moments that the SDE reads."""

    @abstractmethod
    def reads_moments(self, sde: GradientSDE) -> bool:
        """Whether a step needs the second moment of the gradients."""

    @abstractmethod
    def samples_of(self, sde: GradientSDE) -> int:
        """The number of samples in one replica's gradient."""

    @final
    def together(self, sde: GradientSDE, replicas: int) -> int:
        """Of so many replicas those that one compiled step moves; 0 where it has no gradients."""
        problem = sde.oracle.problem
        if not problem.compiled:
            return 0
        return problem.together(replicas, self.samples_of(sde), self.reads_moments(sde))

    def move(
        self, sde: GradientSDE, t: float, y: Components, increment: Increment
    ) -> dict[str, Tensor]:
        """The state after one Euler-Maruyama step."""
        return sde.euler(t, y, increment.dt, self.evaluate(sde, y["theta"], increment))

    @abstractmethod
    def atoms(
        self, sde: GradientSDE, theta: Float[Tensor, "point param"], dt: float, nodes: int
    ) -> tuple[Tensor, Increment]:
        """A finite distribution of increments at each point, for the exact route.

        Returns:
            Weights `(atom,)` that sum to 1, and all points' increments, `(point * atom, ...)`.
            Normals become Gauss-Hermite nodes, exact for polynomials of degree 2 nodes - 1.
        """


@dataclass(frozen=True)
class FullBatch(Increments):
    """dG from all N samples: exact drift, exact covariance.

    Args:
        one_gradient: replace diag Sigma by (dG)^2/(s^2 dt), which has its mean up to O(dt), so that
            an adaptive SDE's step costs one weighted gradient. Weak order 1 is kept, with a larger
            constant.
    """

    one_gradient: bool = False

    def reads_moments(self, sde: GradientSDE) -> bool:
        return sde.uses_moments and not self.one_gradient

    def samples_of(self, sde: GradientSDE) -> int:
        return sde.oracle.problem.samples

    def check(self, sde: GradientSDE, dt: float) -> None:
        if self.one_gradient and sde.uses_moments and sde.constants.get("signal"):
            raise UnsupportedError(
                "the one-gradient form has no mean gradient to keep the signal with; got an SDE "
                "with keep_signal=True. Use one_gradient=False."
            )

    def draw(self, streams: Streams, sde: GradientSDE, dt: float) -> Increment:
        return Increment(dt, streams.normal(sde.noise_dim, size=math.sqrt(dt)), None)

    def atoms(
        self, sde: GradientSDE, theta: Float[Tensor, "point param"], dt: float, nodes: int
    ) -> tuple[Tensor, Increment]:
        """dW in the row space of F(theta), where alone it is felt: one normal a parameter."""
        units = torch.eye(sde.noise_dim, dtype=theta.dtype)
        factor = torch.stack(
            [sde.oracle.noise_product(theta, unit.expand(len(theta), -1)) for unit in units], -1
        )
        _, _, rows = torch.linalg.svd(factor, full_matrices=False)
        weights, normals = hermite_atoms(rows.shape[1], nodes, theta)
        noise = math.sqrt(dt) * torch.einsum("ar,prn->pan", normals, rows)
        return weights, Increment(dt, noise.reshape(-1, sde.noise_dim), None)

    def merge(self, parts: Sequence[Increment]) -> Increment:
        noise = torch.stack([p.noise for p in parts]).sum(0)
        return Increment(math.fsum(p.dt for p in parts), noise, None)

    def evaluate(self, sde: GradientSDE, theta: Parameters, increment: Increment) -> GradientValues:
        dt, dW = increment.dt, increment.noise.to(theta.dtype)
        moments = self.reads_moments(sde)
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

    def reads_moments(self, sde: GradientSDE) -> bool:
        return sde.uses_moments

    def samples_of(self, sde: GradientSDE) -> int:
        return self.samples

    def check(self, sde: GradientSDE, dt: float) -> None:
        if self.samples < 2:
            raise InvalidInputError(f"a subset needs at least 2 samples; got {self.samples}.")
        if not sde.oracle.noise.covariance.of_uniform_samples:
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
        indices = streams.integers(sde.oracle.problem.samples, self.samples)
        return Increment(dt, self._weights(sde, dt, streams.normal(self.samples)), indices)

    def atoms(
        self, sde: GradientSDE, theta: Float[Tensor, "point param"], dt: float, nodes: int
    ) -> tuple[Tensor, Increment]:
        """All multisets of samples, times nodes for the n - 1 normals that centring leaves."""
        n = self.samples
        picks, chances = multisets(sde.oracle.problem.samples, n)
        contrasts = torch.linalg.svd(centred(torch.eye(n, dtype=theta.dtype)))[2][: n - 1]
        weights, normals = hermite_atoms(n - 1, nodes, theta)
        sample_weights = self._weights(sde, dt, normals @ contrasts)
        both = torch.outer(torch.tensor(chances, dtype=theta.dtype), weights).ravel()
        indices = torch.tensor(picks).repeat_interleave(len(weights), 0)
        noise = sample_weights.repeat(len(picks), 1)
        points = len(theta)
        return both, Increment(dt, noise.repeat(points, 1), indices.repeat(points, 1))

    def _weights(self, sde: GradientSDE, dt: float, normals: Tensor) -> Tensor:
        n = self.samples
        spread = math.sqrt((sde.intensity**2 * dt - dt**2 / n) * n / (n - 1))
        return dt / n + (spread / math.sqrt(n)) * centred(normals)

    def merge(self, parts: Sequence[Increment]) -> Increment:
        indices = torch.cat([p.indices for p in parts if p.indices is not None], 1)
        return Increment(
            math.fsum(p.dt for p in parts), torch.cat([p.noise for p in parts], 1), indices
        )

    def evaluate(self, sde: GradientSDE, theta: Parameters, increment: Increment) -> GradientValues:
        problem, weights = sde.oracle.problem, increment.noise.to(theta.dtype)
        if not sde.uses_moments:
            weighted = problem.weighted_gradient(theta, weights, increment.indices)
            return GradientValues(weighted, None, None)
        moments = problem.weighted_moments(theta, weights, increment.indices)
        n = weights.shape[1]
        variance = diagonal(moments.mean, moments.second).mul_(n / (n - 1))
        return GradientValues(moments.weighted, moments.mean, variance)


def hermite_atoms(dimension: int, nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `(atom,)` and points `(atom, dimension)` of the tensor Gauss-Hermite rule."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    axes = [torch.tensor(points, dtype=like.dtype)] * dimension
    chances = [torch.tensor(weights / weights.sum(), dtype=like.dtype)] * dimension
    table = torch.cartesian_prod(*axes).reshape(-1, dimension)
    return torch.cartesian_prod(*chances).reshape(-1, dimension).prod(1), table
