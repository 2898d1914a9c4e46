"""Moments of replicas, block by block, that merge exactly.

A block is summarised by its count n, mean m and comoment C = sum (x - m)(x - m), so that two
summaries give the summary of the union (Chan, Golub and LeVeque 1979), whatever the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdeverify.errors import InvalidInputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Moments:
    """Count, mean and comoment of some replicas.

    Attributes:
        count: how many replicas.
        mean: `(...)`, or `(a, ...)` where comoments are crossed over the first axis.
        comoment: sum of squared deviations, `(...)`; or of their products, `(a, a, ...)`.
    """

    count: int
    mean: Array
    comoment: Array

    @property
    def covariance(self) -> Array:
        """The unbiased (co)variance of one replica; NaN for a single one."""
        return self.covariance_of_the_mean * self.count

    @property
    def covariance_of_the_mean(self) -> Array:
        """The (co)variance of the mean, `C / (n (n - 1))`; NaN for a single replica."""
        return variance_of_the_mean(self.comoment, self.count)


class BlockResult(NamedTuple):
    """One block's moments, its replicas' values where they are kept, the first block's probe."""

    moments: Moments
    values: NDArray[np.float64] | None
    probe: NDArray[np.float64] | None = None


def block_moments(values: Any) -> Moments:
    """The moments of a block of replicas, `values` of shape `(replica, ...)`.

    Numpy arrays, nested lists and tensors on any device are taken; sums are in float64.
    """
    x = _as_float64(values)
    mean = _mean(x)
    return Moments(len(x), mean, np.sum((x - mean) ** 2, axis=0))


def cross_block_moments(values: Any) -> Moments:
    """As `block_moments`, `(replica, a, ...)`, with comoments `(a, a, ...)` over the first axis.

    For a path, `a` runs over the discretisations of one Brownian path: `(replica, substeps, step,
    observable)` gives comoments `(substeps, substeps, step, observable)`.
    """
    x = _as_float64(values)
    if x.ndim < 2:
        raise InvalidInputError(
            f"cross moments need the axes (replica, a, ...); got shape {x.shape}"
        )
    mean = _mean(x)
    deviation = x - mean
    return Moments(len(x), mean, np.einsum("ra...,rb...->ab...", deviation, deviation))


def _mean(x: Array) -> Array:
    """The mean, exact where all replicas are equal."""
    return np.asarray(x[0] + np.mean(x - x[0], axis=0))


def _as_float64(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or len(x) == 0:
        raise InvalidInputError(f"a block has at least one replica, leading; got shape {x.shape}")
    return x


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
