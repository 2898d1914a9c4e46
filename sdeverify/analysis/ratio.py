"""The ratio of two means with an interval."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats


class RatioInterval(NamedTuple):
    """A ratio of two means with its confidence interval; `high` may be infinite."""

    value: float
    low: float
    high: float


def ratio_interval(
    numerator: NDArray[Any], denominator: NDArray[Any], confidence: float = 0.95
) -> RatioInterval:
    """The ratio of two means of paired, independent replicas, with Fieller's interval.

    Where the denominator is not resolved from 0 the interval has no upper end. Both means are
    taken to be non-negative, as signal and noise are.
    """
    n = len(numerator)
    x, y = float(np.mean(numerator)), float(np.mean(denominator))
    (vx, vxy), (_, vy) = np.cov(numerator, denominator) / n
    t2 = float(stats.t.ppf((1 + confidence) / 2, n - 1)) ** 2
    # (x - rho y)^2 <= t^2 (vx - 2 rho vxy + rho^2 vy), as a rho^2 + b rho + c <= 0.
    a, b, c = y**2 - t2 * vy, -2 * (x * y - t2 * vxy), x**2 - t2 * vx
    value = x / y if y > 0 else math.inf
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    if a > 0:
        return RatioInterval(value, max((-b - root) / (2 * a), 0.0), (-b + root) / (2 * a))
    if c <= 0:
        return RatioInterval(value, 0.0, math.inf)
    # a <= 0 < c: one positive root, beyond which the quadratic is negative.
    return RatioInterval(value, 2 * c / (root - b), math.inf)
