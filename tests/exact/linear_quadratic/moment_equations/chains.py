"""Moments of SGD and momentum themselves on quadratic losses, by recursion.

The same as `linear_quadratic` gives for their SDEs, with the same arguments; written anew from the
update rules in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from moment_equations.moments import (
    Coefficients,
    Gaussian,
    Moments,
    moments_along_chain,
)
from moment_equations.quadratic import (
    PerParameter,
    Quadratic,
    Ratio,
    ascending,
    per_parameter,
    ratio_at,
    starting_moments,
)
from sdeverify.errors import InvalidInputError


def sgd_chain_moments(
    quadratic: Quadratic,
    *,
    learning_rate: float,
    sigma: float,
    theta0: ArrayLike,
    steps: ArrayLike,
    start_step: int = 0,
    weight_decay: PerParameter = 0.0,
    ratio: Ratio = 1.0,
    covariance0: ArrayLike | None = None,
) -> Moments:
    """theta+ = theta - eta (grad f + lambda theta + sigma z), independent z of covariance Sigma."""
    pull, offset = quadratic.pull(weight_decay)

    def at(k: int) -> Coefficients:
        rate = learning_rate * ratio_at(ratio, k, quadratic.dim)
        spread = sigma**2 * np.outer(rate, rate) * quadratic.noise_covariance
        return Coefficients(np.eye(quadratic.dim) - rate[:, None] * pull, rate * offset, spread)

    start = starting_moments(quadratic, covariance0, theta0=theta0)
    return _along_chain(("theta",), at, start, start_step, steps, learning_rate)


def momentum_chain_moments(
    quadratic: Quadratic,
    *,
    learning_rate: float,
    momentum: PerParameter,
    sigma: float,
    theta0: ArrayLike,
    p0: ArrayLike,
    steps: ArrayLike,
    start_step: int = 0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: PerParameter = 0.0,
    ratio: Ratio = 1.0,
    covariance0: ArrayLike | None = None,
) -> Moments:
    """b+ = mu b + (1 - d) g, theta+ = theta - eta b+, in the coordinates (theta, p = -h b/(1 - d)).

    There p+ = mu p - h g, theta+ = theta + h p+, with h = sqrt(eta (1 - d)). Nesterov (d = 0) has
    theta+ = theta - eta g + mu h p+. At step 0 the gradient enters b undamped, as in torch.
    """
    if nesterov and dampening:
        raise InvalidInputError(f"nesterov needs dampening = 0; got {dampening}.")
    dim, step = quadratic.dim, math.sqrt(learning_rate * (1 - dampening))
    pull, offset = quadratic.pull(weight_decay)
    mu, eye = np.diag(per_parameter("momentum", momentum, dim)), np.eye(dim)

    def at(k: int) -> Coefficients:
        rho = np.diag(ratio_at(ratio, k, dim))
        kick = -step * (1 / (1 - dampening) if k == 0 else 1.0) * eye  # p+ = mu p + kick g
        by_p, by_g = step * rho @ mu, step * rho @ kick  # theta+ = theta + by_p p + by_g g
        if nesterov:
            by_p, by_g = step * rho @ mu @ mu, step * rho @ (mu @ kick - step * eye)
        push = np.vstack([by_g, kick])
        matrix = np.block([[eye, by_p], [np.zeros((dim, dim)), mu]])
        matrix[:, :dim] += push @ pull
        return Coefficients(
            matrix, -push @ offset, sigma**2 * push @ quadratic.noise_covariance @ push.T
        )

    start = starting_moments(quadratic, covariance0, theta0=theta0, p0=p0)
    return _along_chain(("theta", "p"), at, start, start_step, steps, step)


def _along_chain(
    components: tuple[str, ...],
    at: Callable[[int], Coefficients],
    start: Gaussian,
    start_step: int,
    steps: ArrayLike,
    time_per_step: float,
) -> Moments:
    axis = ascending("steps", steps, start_step)
    if np.any(axis != np.round(axis)):
        raise InvalidInputError(f"steps must be whole numbers; got {axis}.")
    mean, covariance = moments_along_chain(at, start, start_step, [int(k) for k in axis])
    return Moments(components, axis * time_per_step, axis, mean, covariance)
