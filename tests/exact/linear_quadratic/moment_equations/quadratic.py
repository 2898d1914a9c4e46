"""Quadratic losses with constant noise covariance, and the arguments that their moments take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moment_equations.moments import Array, Gaussian
from sdeverify.errors import InvalidInputError

PerParameter = float | Sequence[float] | Array
"""One number, or one for each parameter."""
Ratio = PerParameter | Callable[[float], PerParameter]
"""The learning rate in units of `learning_rate`: constant, or a function of the optimizer step."""


@dataclass(frozen=True)
class Quadratic:
    """f(theta) = (theta - theta*)^T A (theta - theta*)/2, noise of covariance sigma^2 Sigma.

    Args:
        hessian: A, symmetric, shape `(dim, dim)`; it may have eigenvalues <= 0.
        minimum: theta*, shape `(dim,)`.
        noise_covariance: Sigma, symmetric and positive semi-definite, shape `(dim, dim)`.
    """

    hessian: Array
    minimum: Array
    noise_covariance: Array

    def __post_init__(self) -> None:
        for name in ("hessian", "minimum", "noise_covariance"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64))
        square = (self.dim, self.dim)
        if self.hessian.shape != square or self.noise_covariance.shape != square:
            raise InvalidInputError(
                f"hessian and noise_covariance must have shape {square}, as minimum has "
                f"{self.minimum.shape}; got {self.hessian.shape} and {self.noise_covariance.shape}."
            )
        for name in ("hessian", "noise_covariance"):
            matrix = getattr(self, name)
            if np.abs(matrix - matrix.T).max() > 1e-12 * np.abs(matrix).max():
                raise InvalidInputError(f"{name} must be symmetric; got {matrix}.")
        eigenvalues = np.linalg.eigvalsh(self.noise_covariance)
        if eigenvalues[0] < -1e-12 * max(abs(eigenvalues[-1]), 1e-300):
            raise InvalidInputError(
                "noise_covariance must be positive semi-definite; its lowest eigenvalue is "
                f"{eigenvalues[0]:.3g}."
            )

    @property
    def dim(self) -> int:
        """The number of parameters."""
        return self.minimum.size

    def pull(self, weight_decay: PerParameter) -> tuple[Array, Array]:
        """(H, r) with grad f + lambda theta = H theta - r."""
        decay = np.diag(per_parameter("weight_decay", weight_decay, self.dim))
        return self.hessian + decay, self.hessian @ self.minimum


def starting_moments(
    quadratic: Quadratic, covariance0: ArrayLike | None, **parts: ArrayLike
) -> Gaussian:
    """The mean and covariance at the start; a point where no covariance is given."""
    mean = np.concatenate(
        [per_parameter(name, value, quadratic.dim) for name, value in parts.items()]
    )
    if covariance0 is None:
        return mean, np.zeros((mean.size, mean.size))
    covariance = np.array(covariance0, dtype=np.float64)
    if covariance.shape != (mean.size, mean.size) or not np.allclose(covariance, covariance.T):
        raise InvalidInputError(
            f"covariance0 must be symmetric of shape {(mean.size, mean.size)}; got shape "
            f"{covariance.shape}."
        )
    return mean, covariance


def ratio_at(ratio: Ratio, step: float, dim: int) -> Array:
    """The learning-rate ratio of each parameter at an optimizer step."""
    return per_parameter("ratio", ratio(step) if callable(ratio) else ratio, dim)


def per_parameter(name: str, value: ArrayLike, dim: int) -> Array:
    """A hyperparameter or a point as one number for each parameter."""
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), (dim,)):
        raise InvalidInputError(
            f"{name} must be a number or have shape ({dim},); got {array.shape}."
        )
    return np.broadcast_to(array, (dim,))


def ascending(name: str, values: ArrayLike, start: float) -> Array:
    """The requested times or steps, refused where they do not ascend from the start on."""
    axis = np.asarray(values, dtype=np.float64)
    if axis.ndim != 1 or axis.size == 0 or axis[0] < start or np.any(np.diff(axis) < 0):
        raise InvalidInputError(
            f"{name} must be a non-empty ascending list from the start {start:g} on; got {axis}."
        )
    return axis
