"""The order of errors that were computed without sampling, from the finest rungs.

With `e(s) = a s^p (1 + b s + ...)` the slope between two neighbouring rungs is
`p + b L(s_i, s_j) + ...`, L the logarithmic mean; two slopes extrapolate to p (Richardson). The
interval is centred there. Its half-width is twice the sum of the last slope's distance from the
centre, the change of the extrapolation from rung to rung (with three rungs, of the slope), and what
the numerical error `bound` can do, and at least `FLOOR`; with three rungs at least
`FLOOR_OF_THREE`, since two slopes that agree may both be off.

An error that tends to a constant is recognised by its limit: the constant of
`c + a s^p + b s^(p+1) + ...` through all rungs, p the claimed order, against the same without the
coarsest and without the finest rung.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOOR = 0.04
FLOOR_OF_THREE = 0.3
LARGEST_BOUND = 0.01
LARGEST_CHANGE = 0.25
LIMIT_FACTOR = 5.0
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


def exact_order(
    step: Array, error: Array, bound: Array, claimed: float, scale: float = 0.0
) -> ExactOrder:
    """The order of exact signed errors at steps, coarsest first, `(rung,)` each.

    A limit refutes from four rungs on, and with three keeps from supporting, where it exceeds
    `LIMIT_FACTOR` times its uncertainty and `LIMIT_SHARE` of the finest rung's error or of `scale`:
    the largest such error at neighbouring times, which keeps a leading term that passes through 0
    from looking like a constant.
    """
    nothing = (np.nan, -np.inf, np.inf, np.nan, np.nan)
    size = np.abs(error)
    if len(step) < 3:
        return ExactOrder(*nothing, "an exact order needs three rungs or more")
    if not np.all(np.isfinite(error) & np.isfinite(bound)):
        return ExactOrder(*nothing, "the exact error or its bound is not finite")
    if np.all(size <= bound):
        return ExactOrder(*nothing, "no error exceeds the numerical error")
    limit, uncertainty = limit_of(step, error, bound, claimed)
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
    elif abs(limit) > least and order + half >= claimed:
        unresolved = f"three rungs cannot tell whether the error's limit is 0 or {limit:.1e}"
    return ExactOrder(order, order - half, order + half, limit, uncertainty, unresolved)


def limit_of(step: Array, error: Array, bound: Array, claimed: float) -> tuple[float, float]:
    """The constant of the series through all rungs, and how uncertain it is.

    The change without the finest rung counts by the root of finest over coarsest step: between the
    two remainders' ratio, which trusts the series, and 1.
    """
    weights = _constant(step, claimed)
    limit = float(weights @ error)
    finer = abs(limit - float(_constant(step[1:], claimed) @ error[1:]))
    coarser = abs(limit - float(_constant(step[:-1], claimed) @ error[:-1]))
    numerical = float(np.abs(weights) @ bound)
    return limit, max(finer, coarser * float(np.sqrt(step[-1] / step[0]))) + numerical


def _constant(step: Array, claimed: float) -> Array:
    """Weights that give c for errors `c + a s^p + b s^(p+1) + ...` with as many terms as rungs."""
    powers = np.concatenate([[0.0], claimed + np.arange(len(step) - 1)])
    return np.asarray(np.linalg.inv((step[:, None] / step[0]) ** powers)[0])


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
    return (
        float(extrapolated[-1]),
        float(max(2 * half, FLOOR if len(step) > 3 else FLOOR_OF_THREE)),
        float(abs(slope[-1] - slope[-2])),
    )
