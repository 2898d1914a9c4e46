"""Arithmetic of block moments: exact pooling, and extrapolation to dt = 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def pool_blocks(count: ArrayLike, mean: ArrayLike, comoment: ArrayLike) -> tuple[int, Array, Array]:
    """Count, mean and comoment of all replicas from those of the blocks (leading axis).

    `mean` is `(block, ...)` with `comoment` of the same shape, or `(block, a, ...)` with the cross
    comoments `(block, a, a, ...)`. `C = sum_b C_b + sum_b n_b (m_b - m)(m_b - m)`
    (Chan, Golub and LeVeque 1979).
    """
    n, m, c = (np.asarray(v, dtype=np.float64) for v in (count, mean, comoment))
    total = float(n.sum())
    pooled = m[0] + np.tensordot(n / total, m - m[0], axes=(0, 0))
    deviation = m - pooled
    if c.ndim == m.ndim:
        between = np.tensordot(n, deviation**2, axes=(0, 0))
    else:
        between = np.einsum("b,ba...,bc...->ac...", n, deviation, deviation)
    return round(total), pooled, c.sum(axis=0) + between


def extrapolation_weights(substeps: Sequence[int] | Array) -> Array:
    """Weights w with `sum_i w_i E(dt_i) = E(0)` for every polynomial through all the points.

    Lagrange's polynomial in `dt_i = 1/substeps_i`, at 0 (Talay and Tubaro 1990); for two points
    `(s2 E2 - s1 E1)/(s2 - s1)`. One point has the weight 1: nothing is extrapolated.
    """
    dt = 1.0 / np.asarray(substeps, dtype=np.float64)
    others = [np.delete(dt, i) for i in range(len(dt))]
    return np.array([np.prod(o / (o - d)) for o, d in zip(others, dt, strict=True)])


def variance_of_the_mean(comoment: Array, n: int) -> Array:
    """(Co)variance of the mean of n replicas; NaN for one replica, which has no spread."""
    return comoment / (n * (n - 1.0)) if n > 1 else np.full_like(comoment, np.nan)
