"""Moments of the SDEs of SGD, momentum, RMSprop and Adam on quadratic losses, by moment equations.

With f(theta) = (theta - theta*)^T A (theta - theta*)/2 and a constant noise covariance Sigma the
SDEs of SGD, momentum, RMSprop and Adam are linear with time-dependent coefficients: u solves an
ODE of its own, with no noise, and mean and covariance of (theta, p | m) solve another. Everything
is written anew from the equations in numpy and scipy, so that it can be held against the coded
SDEs.

All functions take the hyperparameters of the *optimizer*. Where it says so, a hyperparameter is
one number or one for each parameter. `ratio` is the learning rate in units of `learning_rate`: a
number, a vector, or a function of the optimizer step that gives either.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from moment_equations.moments import (
    Array,
    Coefficients,
    Gaussian,
    Moments,
    moments_along_constant_sde,
    moments_along_sde,
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


def sgd_sde_moments(
    quadratic: Quadratic,
    *,
    learning_rate: float,
    sigma: float,
    theta0: ArrayLike,
    times: ArrayLike,
    start_time: float = 0.0,
    weight_decay: PerParameter = 0.0,
    ratio: Ratio = 1.0,
    covariance0: ArrayLike | None = None,
) -> Moments:
    """d theta = -(grad f + lambda theta) dt + sqrt(eta) sigma Sigma^(1/2) dW, clock t = k eta."""
    pull, offset = quadratic.pull(weight_decay)
    spread = learning_rate * sigma**2 * quadratic.noise_covariance

    def at(t: float) -> Coefficients:
        rho = ratio_at(ratio, t / learning_rate, quadratic.dim)
        return Coefficients(-rho[:, None] * pull, rho * offset, np.outer(rho, rho) * spread)

    start = starting_moments(quadratic, covariance0, theta0=theta0)
    return _along_sde(("theta",), at, start, start_time, times, learning_rate, callable(ratio))


def momentum_sde_moments(
    quadratic: Quadratic,
    *,
    learning_rate: float,
    momentum: PerParameter,
    sigma: float,
    theta0: ArrayLike,
    p0: ArrayLike,
    times: ArrayLike,
    start_time: float = 0.0,
    dampening: float = 0.0,
    weight_decay: PerParameter = 0.0,
    ratio: Ratio = 1.0,
    covariance0: ArrayLike | None = None,
) -> Moments:
    """dp = -(gamma p + grad f + lambda theta) dt + sqrt(h) sigma Sigma^(1/2) dW, d theta = p dt.

    h = sqrt(eta (1 - d)), gamma = (1 - mu)/h, clock t = k h. The state is (theta, p).
    """
    dim, step = quadratic.dim, math.sqrt(learning_rate * (1 - dampening))
    pull, offset = quadratic.pull(weight_decay)
    gamma = (1 - per_parameter("momentum", momentum, dim)) / step
    zero = np.zeros((dim, dim))
    noise = np.block([[zero, zero], [zero, step * sigma**2 * quadratic.noise_covariance]])
    vector = np.concatenate([np.zeros(dim), offset])

    def at(t: float) -> Coefficients:
        rho = ratio_at(ratio, t / step, dim)
        return Coefficients(
            np.block([[zero, np.diag(rho)], [-pull, -np.diag(gamma)]]), vector, noise
        )

    start = starting_moments(quadratic, covariance0, theta0=theta0, p0=p0)
    return _along_sde(("theta", "p"), at, start, start_time, times, step, callable(ratio))


def rmsprop_sde_moments(
    quadratic: Quadratic,
    *,
    learning_rate: float,
    beta: PerParameter,
    epsilon: PerParameter,
    sigma: float,
    theta0: ArrayLike,
    u0: ArrayLike,
    times: ArrayLike,
    start_time: float = 0.0,
    weight_decay: PerParameter = 0.0,
    ratio: Ratio = 1.0,
    covariance0: ArrayLike | None = None,
) -> Moments:
    """d theta = -P^(-1) ((grad f + lambda theta) dt + sigma_0 Sigma^(1/2) dW).

    P = sigma_0 sqrt(u) + epsilon_0, du = c2 (diag Sigma - u) dt, sigma_0 = sigma eta,
    epsilon_0 = epsilon eta, c2 = (1 - beta)/eta^2, clock t = k eta^2. The state is (theta, u); u is
    not random. `covariance0` is theta's.
    """
    dim, step = quadratic.dim, learning_rate**2
    pull, offset = quadratic.pull(weight_decay)
    sigma0 = sigma * learning_rate
    epsilon0 = per_parameter("epsilon", epsilon, dim) * learning_rate
    u_at = _second_moment(quadratic, beta, learning_rate, u0, start_time)
    _positive_denominator(sigma0, u_at(start_time), epsilon0)

    def at(t: float) -> Coefficients:
        rate = ratio_at(ratio, t / step, dim) / (sigma0 * np.sqrt(u_at(t)) + epsilon0)
        spread = sigma0**2 * np.outer(rate, rate) * quadratic.noise_covariance
        return Coefficients(-rate[:, None] * pull, rate * offset, spread)

    start = starting_moments(quadratic, covariance0, theta0=theta0)
    moments = _along_sde(("theta",), at, start, start_time, times, step, True)
    return _with_second_moment(moments, u_at)


def adam_sde_moments(
    quadratic: Quadratic,
    *,
    learning_rate: float,
    beta1: PerParameter,
    beta2: PerParameter,
    epsilon: PerParameter,
    sigma: float,
    theta0: ArrayLike,
    m0: ArrayLike,
    u0: ArrayLike,
    times: ArrayLike,
    start_time: float,
    weight_decay: PerParameter = 0.0,
    decoupled_weight_decay: PerParameter = 0.0,
    ratio: Ratio = 1.0,
    covariance0: ArrayLike | None = None,
) -> Moments:
    """d theta = -(sqrt(gamma_2)/gamma_1) P^(-1) m dt - lambda_0 theta dt, from start_time > 0.

    dm = c1 (grad f + lambda theta - m) dt + sigma_0 c1 Sigma^(1/2) dW, du = c2 (diag Sigma - u) dt,
    P = sigma_0 sqrt(u) + epsilon_0 sqrt(gamma_2), gamma_i = 1 - exp(-c_i t),
    c_i = (1 - beta_i)/eta^2, sigma_0 = sigma eta, epsilon_0 = epsilon eta, lambda_0 = lambda/eta,
    clock t = k eta^2. The state is (theta, m, u); u is not random. `covariance0` is that of
    (theta, m).
    """
    if not start_time > 0:
        raise InvalidInputError(
            f"Adam's SDE is singular at time 0; got start_time = {start_time:g}. Start later."
        )
    dim, step = quadratic.dim, learning_rate**2
    pull, offset = quadratic.pull(weight_decay)
    sigma0 = sigma * learning_rate
    epsilon0 = per_parameter("epsilon", epsilon, dim) * learning_rate
    decay0 = per_parameter("decoupled_weight_decay", decoupled_weight_decay, dim) / learning_rate
    c1, c2 = ((1 - per_parameter("beta", beta, dim)) / step for beta in (beta1, beta2))
    u_at = _second_moment(quadratic, beta2, learning_rate, u0, start_time)
    _positive_denominator(sigma0, u_at(start_time), epsilon0)
    zero = np.zeros((dim, dim))
    spread = sigma0**2 * np.outer(c1, c1) * quadratic.noise_covariance
    noise = np.block([[zero, zero], [zero, spread]])
    vector = np.concatenate([np.zeros(dim), -c1 * offset])

    def at(t: float) -> Coefficients:
        gamma1, gamma2 = -np.expm1(-c1 * t), -np.expm1(-c2 * t)
        rho, root = ratio_at(ratio, t / step, dim), np.sqrt(gamma2)
        speed = rho * root / gamma1 / (sigma0 * np.sqrt(u_at(t)) + epsilon0 * root)
        top = np.hstack([-np.diag(rho * decay0), -np.diag(speed)])
        return Coefficients(
            np.vstack([top, np.hstack([c1[:, None] * pull, -np.diag(c1)])]), vector, noise
        )

    start = starting_moments(quadratic, covariance0, theta0=theta0, m0=m0)
    moments = _along_sde(("theta", "m"), at, start, start_time, times, step, True)
    return _with_second_moment(moments, u_at)


def _along_sde(
    components: tuple[str, ...],
    at: Callable[[float], Coefficients],
    start: Gaussian,
    start_time: float,
    times: ArrayLike,
    time_per_step: float,
    varying: bool,
) -> Moments:
    clock = ascending("times", times, start_time)
    if varying:
        mean, covariance = moments_along_sde(at, start, start_time, list(clock))
    else:
        mean, covariance = moments_along_constant_sde(
            at(start_time), start, start_time, list(clock)
        )
    return Moments(components, clock, clock / time_per_step, mean, covariance)


def _second_moment(
    quadratic: Quadratic, beta: PerParameter, learning_rate: float, u0: ArrayLike, start_time: float
) -> Callable[[float], Array]:
    """u(t) = diag Sigma + (u_0 - diag Sigma) exp(-c2 (t - t_0))."""
    c2 = (1 - per_parameter("beta", beta, quadratic.dim)) / learning_rate**2
    variance, first = np.diag(quadratic.noise_covariance), per_parameter("u0", u0, quadratic.dim)
    if np.any(first < 0) or np.any((first == 0) & (variance > 0)):
        raise InvalidInputError(
            f"u0 must be positive wherever diag Sigma is; got {first}, where diag Sigma = "
            f"{variance}. Start such coordinates from diag Sigma."
        )
    return lambda t: variance + (first - variance) * np.exp(-c2 * (t - start_time))


def _positive_denominator(sigma0: float, u: Array, epsilon0: Array) -> None:
    if np.any(sigma0 * np.sqrt(u) + epsilon0 <= 0):
        raise InvalidInputError(
            "the denominator sigma_0 sqrt(u) + epsilon_0 is 0 in some coordinate; use epsilon > 0."
        )


def _with_second_moment(moments: Moments, u_at: Callable[[float], Array]) -> Moments:
    """The moments with the deterministic u at the end of the state."""
    u = np.stack([u_at(t) for t in moments.times])
    wide = ((0, 0), (0, moments.dim), (0, moments.dim))
    return Moments(
        (*moments.components, "u"),
        moments.times,
        moments.steps,
        np.hstack([moments.mean, u]),
        np.pad(moments.covariance, wide),
    )
