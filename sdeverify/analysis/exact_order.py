"""The order of errors that were computed without sampling, from the finest rungs.

With `e(s) = a s^p (1 + b s + ...)` the slope between two neighbouring rungs is
`p + b L(s_i, s_j) + ...`, L the logarithmic mean; two slopes extrapolate to p (Richardson). The
interval is centred there; its half-width adds the last slope's distance from it, the change of the
extrapolation from rung to rung (with three rungs, of the slope), and what the numerical error
`bound` can do, but is never below `FLOOR`. An error that tends to a constant is recognised by its
limit: the polynomial through all rungs, at 0, against the polynomials without the coarsest and
without the finest (the latter scaled by finest over coarsest step, the two remainders' ratio).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdeverify.pooling import extrapolation_weights

Array = NDArray[Any]

FLOOR = 0.02
LARGEST_BOUND = 0.01
LARGEST_CHANGE = 0.25
LIMIT_FACTOR = 10.0
LIMIT_SHARE = 0.05


@dataclass(frozen=True)
class ExactOrder:
    """Order with its interval, the error's limit as the step goes to 0, and why it is not resolved.

    `unresolved` is empty where the order can be used.
    """

    order: float
    low: float
    high: float
    limit: float
    limit_uncertainty: float
    unresolved: str


def exact_order(step: Array, error: Array, bound: Array, scale: float = 0.0) -> ExactOrder:
    """The order of exact signed errors at steps, coarsest first, `(rung,)` each.

    A limit counts from four rungs on, where it exceeds `LIMIT_FACTOR` times its uncertainty and
    `LIMIT_SHARE` of the finest rung's error or of `scale`: the largest such error at neighbouring
    times, which keeps a leading term that passes through 0 from looking like a constant.
    """
    nothing = (np.nan, -np.inf, np.inf, np.nan, np.nan)
    size = np.abs(error)
    if len(step) < 3:
        return ExactOrder(*nothing, "an exact order needs three rungs or more")
    if not np.all(np.isfinite(error) & np.isfinite(bound)):
        return ExactOrder(*nothing, "the exact error or its bound is not finite")
    if np.all(size <= bound):
        return ExactOrder(*nothing, "no error exceeds the numerical error")
    limit, uncertainty = limit_of(step, error, bound)
    least = max(LIMIT_FACTOR * uncertainty, LIMIT_SHARE * max(float(size[-1]), scale))
    if len(step) > 3 and abs(limit) > least:
        return ExactOrder(0.0, 0.0, 0.0, limit, uncertainty, "")
    if np.max(bound) > LARGEST_BOUND * np.min(size):
        reason = f"the numerical error {np.max(bound):.1e} exceeds 1% of {np.min(size):.1e}"
        return ExactOrder(*nothing[:3], limit, uncertainty, reason)
    order, half, change = _extrapolated(step, size, bound)
    unresolved = ""
    if len(set(np.sign(error[-3:]))) > 1:
        unresolved = "the error changes its sign among the finest rungs"
    elif change > LARGEST_CHANGE:
        unresolved = f"the last two local slopes differ by {change:.2f}: not yet asymptotic"
    return ExactOrder(order, order - half, order + half, limit, uncertainty, unresolved)


def limit_of(step: Array, error: Array, bound: Array) -> tuple[float, float]:
    """The polynomial through all rungs at step 0, and how uncertain it is."""

    def at_zero(rows: slice) -> float:
        return float(extrapolation_weights(1.0 / step[rows]) @ error[rows])

    limit = at_zero(slice(None))
    finer = abs(limit - at_zero(slice(1, None)))
    coarser = abs(limit - at_zero(slice(None, -1))) * step[-1] / step[0]
    numerical = float(np.abs(extrapolation_weights(1.0 / step)) @ bound)
    return limit, max(finer, coarser) + numerical


def _extrapolated(step: Array, size: Array, bound: Array) -> tuple[float, float, float]:
    """The extrapolated slope, the half-width of its interval, and the last change of slope."""
    width = np.log(step[:-1] / step[1:])
    slope = np.log(size[:-1] / size[1:]) / width
    mean = (step[:-1] - step[1:]) / width
    weight = mean[1:] / (mean[:-1] - mean[1:])
    extrapolated = slope[1:] + weight * np.diff(slope)
    numerical = (bound / size)[:-1] / width + (bound / size)[1:] / width
    half = abs(slope[-1] - extrapolated[-1])
    half += (1 + weight[-1]) * numerical[-1] + weight[-1] * numerical[-2]
    half += np.max(np.abs(np.diff(extrapolated if len(extrapolated) > 1 else slope)[-1:]))
    return float(extrapolated[-1]), float(max(half, FLOOR)), float(abs(slope[-1] - slope[-2]))
