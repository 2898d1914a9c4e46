"""Mean and covariance of linear systems with additive noise, in continuous and in discrete time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from sdeverify.errors import InconclusiveError, InvalidInputError

Array = NDArray[np.float64]

RELATIVE_TOLERANCE = 1e-12
ABSOLUTE_TOLERANCE = 1e-14
MAX_EVALUATIONS = 2_000_000


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a state whose named components of size `dim` lie side by side.

    Args:
        components: the names in their order, `theta` first.
        times: the SDE's clock, shape `(time,)`.
        steps: the same in optimizer steps since the beginning of training, shape `(time,)`.
        mean: shape `(time, component * dim)`.
        covariance: shape `(time, component * dim, component * dim)`.
    """

    components: tuple[str, ...]
    times: Array
    steps: Array
    mean: Array
    covariance: Array

    @property
    def dim(self) -> int:
        """The number of parameters."""
        return int(self.mean.shape[1]) // len(self.components)

    def mean_of(self, component: str) -> Array:
        """The mean of one component, shape `(time, dim)`."""
        return self.mean[:, self._slice(component)]

    def covariance_of(self, component: str, other: str | None = None) -> Array:
        """The covariance of one component, or of two, shape `(time, dim, dim)`."""
        return self.covariance[:, self._slice(component), self._slice(other or component)]

    def expectation_of_quadratic(
        self,
        matrix: ArrayLike | None = None,
        vector: ArrayLike | None = None,
        constant: float = 0.0,
        component: str = "theta",
    ) -> Array:
        """E[x^T Q x + b^T x + c] for one component x, shape `(time,)`.

        Args:
            matrix: Q, shape `(dim, dim)`; 0 where left out. It need not be symmetric.
            vector: b, shape `(dim,)`; 0 where left out.
            constant: c.
            component: the name of x.
        """
        mean, covariance = self.mean_of(component), self.covariance_of(component)
        value = np.full(len(self.times), float(constant))
        if matrix is not None:
            q = _shaped("matrix", matrix, (self.dim, self.dim))
            value = value + np.einsum("ij,tij->t", q, covariance)
            value = value + np.einsum("ti,ij,tj->t", mean, q, mean)
        if vector is not None:
            value = value + mean @ _shaped("vector", vector, (self.dim,))
        return value

    def _slice(self, component: str) -> slice:
        if component not in self.components:
            raise InvalidInputError(
                f"there is no component '{component}'; choose among {', '.join(self.components)}."
            )
        first = self.components.index(component) * self.dim
        return slice(first, first + self.dim)


@dataclass(frozen=True)
class Coefficients:
    """Of the SDE dy = (A y + b) dt + G dW, or of the recursion y+ = A y + b + G z, z ~ (0, I).

    Args:
        matrix: A, shape `(n, n)`.
        vector: b, shape `(n,)`.
        noise: G G^T, shape `(n, n)`.
    """

    matrix: Array
    vector: Array
    noise: Array


Gaussian = tuple[Array, Array]
"""A mean `(n,)` and a covariance `(n, n)`."""


def moments_along_constant_sde(
    coefficients: Coefficients, start: Gaussian, start_time: float, times: Sequence[float]
) -> tuple[Array, Array]:
    """The moments at `times` where A, b and G are constant: transitions by matrix exponentials."""
    mean, covariance = start
    found, t = [], start_time
    for time in times:
        transition = _transition(coefficients, time - t)
        mean, covariance = _advance(transition, mean, covariance)
        t = time
        found.append((mean, covariance))
    return _stacked(found)


def moments_along_sde(
    coefficients: Callable[[float], Coefficients],
    start: Gaussian,
    start_time: float,
    times: Sequence[float],
) -> tuple[Array, Array]:
    """The moments at `times` by m' = A m + b, C' = A C + C A^T + G G^T.

    Explicit Runge-Kutta of order 8 from one time to the next, at relative tolerance 1e-12, so a
    jump of the coefficients does no harm where it is among `times`.

    Raises:
        InconclusiveError: the equations are too stiff for that.
    """
    n = len(start[0])

    def slope(t: float, packed: Array) -> Array:
        at = coefficients(t)
        mean, covariance = packed[:n], packed[n:].reshape(n, n)
        half = at.matrix @ covariance
        change = half + half.T + at.noise
        return np.concatenate([at.matrix @ mean + at.vector, change.ravel()])

    packed, found, t = np.concatenate([start[0], start[1].ravel()]), [], start_time
    for time in times:
        if time > t:
            packed = _integrate(slope, t, time, packed)
            t = time
        covariance = packed[n:].reshape(n, n)
        found.append((packed[:n], (covariance + covariance.T) / 2))
    return _stacked(found)


def moments_along_chain(
    coefficients: Callable[[int], Coefficients],
    start: Gaussian,
    start_step: int,
    steps: Sequence[int],
) -> tuple[Array, Array]:
    """The moments at `steps` by m+ = A_k m + b_k, C+ = A_k C A_k^T + G_k G_k^T."""
    mean, covariance = start
    found, k = [], start_step
    for step in steps:
        while k < step:
            mean, covariance = _advance(coefficients(k), mean, covariance)
            k += 1
        found.append((mean, covariance))
    return _stacked(found)


def _integrate(
    slope: Callable[[float, Array], Array], start: float, end: float, packed: Array
) -> Array:
    """The solution at `end`, refused after too many evaluations."""
    left = MAX_EVALUATIONS

    def counted(t: float, y: Array) -> Array:
        nonlocal left
        left -= 1
        if left < 0:
            raise InconclusiveError(
                f"the moment equations are too stiff: {MAX_EVALUATIONS} evaluations did not lead "
                f"from time {start:g} to {end:g}. Use a larger epsilon or a shorter horizon."
            )
        return slope(t, y)

    tolerances = {"rtol": RELATIVE_TOLERANCE, "atol": ABSOLUTE_TOLERANCE}
    solution = solve_ivp(counted, (start, end), packed, method="DOP853", **tolerances)
    if not solution.success:
        raise InconclusiveError(
            f"the moment equations could not be integrated from time {start:g} to {end:g}: "
            f"{solution.message}"
        )
    return np.asarray(solution.y[:, -1], dtype=np.float64)


def _transition(coefficients: Coefficients, duration: float) -> Coefficients:
    """The recursion over `duration` of an SDE with constant coefficients.

    Van Loan's block exponential over a time in which it neither grows nor shrinks much, then
    doubled: Phi -> Phi^2, b -> b + Phi b, Q -> Q + Phi Q Phi^T.
    """
    a, b, noise = coefficients.matrix, coefficients.vector, coefficients.noise
    n = len(b)
    size = float(np.linalg.norm(a, 2)) * duration
    doublings = math.ceil(math.log2(max(size, 1.0)))
    short = duration / 2**doublings
    block = np.zeros((2 * n + 1, 2 * n + 1))
    block[:n, :n], block[:n, n : 2 * n], block[:n, -1] = a, noise, b
    block[n : 2 * n, n : 2 * n] = -a.T
    power = expm(block * short)
    phi, vector = power[:n, :n], power[:n, -1]
    spread = power[:n, n : 2 * n] @ phi.T
    for _ in range(doublings):
        vector = vector + phi @ vector
        spread = spread + phi @ spread @ phi.T
        phi = phi @ phi
    return Coefficients(phi, vector, (spread + spread.T) / 2)


def _advance(step: Coefficients, mean: Array, covariance: Array) -> Gaussian:
    spread = step.matrix @ covariance @ step.matrix.T + step.noise
    return step.matrix @ mean + step.vector, (spread + spread.T) / 2


def _stacked(found: Sequence[Gaussian]) -> tuple[Array, Array]:
    return np.stack([m for m, _ in found]), np.stack([c for _, c in found])


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InvalidInputError(f"{name} must have shape {shape}; got {array.shape}.")
    return array
