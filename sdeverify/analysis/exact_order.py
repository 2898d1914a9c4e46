"""The order of errors that were computed without sampling, from the finest rungs.

With `e(s) = a s^p (1 + b s + ...)` the slope between two neighbouring rungs is
`p + b L(s_i, s_j) + ...`, L the logarithmic mean; two slopes extrapolate to p (Richardson). The
interval is centred there. Its half-width is twice the sum of the last slope's distance from the
centre, the change of the extrapolation from rung to rung (with three rungs, of the slope), and what
the numerical error `bound` can do, and at least `FLOOR`; with three rungs at least
`FLOOR_OF_THREE`, since two slopes that agree may both be off.

An error that tends to a constant is recognised by its limit, the constant of
`c + a s^p + b s^(p+1) + ...` through all rungs, p the claimed order. A limit is uncertain by
`LIMIT_FACTOR` times what its last term does to it; see `limit_of`. A limit beyond that is no
artefact of the series, however small it is beside the errors: nothing was sampled, so it refutes.

Where the last two slopes differ by more than `LARGEST_CHANGE` the range is not asymptotic: such an
error supports nothing, and refutes only where its interval ends below p - 1/2, as one that grows
from rung to rung does.
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
"""Of 4,000 random series of four rungs without a limit, four exceed it (`test_exact_order`)."""


@dataclass(frozen=True)
class ExactOrder:
    """Order with its interval, the error's limit as the step goes to 0, and why it is not resolved.

    `limit_uncertainty` is the half-width of the limit's interval; `unresolved` is empty where the
    order can be used.
    """

    order: float
    low: float
    high: float
    limit: float
    limit_uncertainty: float
    unresolved: str


def exact_order(step: Array, error: Array, bound: Array, claimed: float) -> ExactOrder:
    """The order of exact signed errors at steps, coarsest first, `(rung,)` each.

    A limit that is not 0 refutes from four rungs on, and with three keeps from supporting.
    """
    nothing = (np.nan, -np.inf, np.inf, np.nan, np.nan)
    size = np.abs(error)
    if len(step) < 3:
        return ExactOrder(*nothing, "an exact order needs three rungs or more")
    if not np.all(np.isfinite(error) & np.isfinite(bound)):
        return ExactOrder(*nothing, "the exact error or its bound is not finite")
    limit, uncertainty = limit_of(step, error, bound, claimed)
    if np.all(size <= bound):
        reason = "no error exceeds the numerical error"
        return ExactOrder(*nothing[:3], limit, uncertainty, reason)
    resolved = abs(limit) > uncertainty
    if len(step) > 3 and resolved:
        return ExactOrder(0.0, 0.0, 0.0, limit, uncertainty, "")
    if np.max(bound) > LARGEST_BOUND * np.min(size):
        reason = f"the numerical error {np.max(bound):.1e} exceeds 1% of {np.min(size):.1e}"
        return ExactOrder(*nothing[:3], limit, uncertainty, reason)
    order, half, change = _extrapolated(step, size, bound)
    unresolved = ""
    if len(set(np.sign(error[-3:]))) > 1:
        unresolved = "the error changes its sign among the finest rungs"
    elif change > LARGEST_CHANGE and order + half >= claimed - 0.5:
        unresolved = f"the last two local slopes differ by {change:.2f}: not yet asymptotic"
    elif resolved and order + half >= claimed:
        unresolved = f"three rungs cannot tell whether the error's limit is 0 or {limit:.1e}"
    return ExactOrder(order, order - half, order + half, limit, uncertainty, unresolved)


def limit_of(step: Array, error: Array, bound: Array, claimed: float) -> tuple[float, float]:
    """The constant of the series through all rungs, and the half-width of its interval.

    The series' last term stands for all that follow. It changes the constant most where the finest
    rung is left out, which counts by the root of finest over coarsest step: between the two
    remainders' ratio, which trusts the series, and 1; or where the coarsest is. The term counts as
    no smaller than in the geometric series that starts with the first term and has no term below
    the fitted ones, so that one which passes through 0 hides nothing.
    """
    relative = step / step[0]
    weights = _weights(relative, claimed)
    terms = weights @ error
    last = len(step) - 2
    first = max(abs(float(terms[1])), 1e-12 * float(np.max(np.abs(terms))), 1e-300)
    ratio = max((abs(float(terms[k + 1])) / first) ** (1 / k) for k in range(1, last + 1))
    power = relative ** (claimed + last)
    finer = abs(float(_weights(relative[1:], claimed)[0] @ power[1:]))
    coarser = abs(float(_weights(relative[:-1], claimed)[0] @ power[:-1]))
    change = first * ratio**last * max(finer, coarser * float(np.sqrt(relative[-1])))
    return float(terms[0]), LIMIT_FACTOR * change + float(np.abs(weights[0]) @ bound)


def _weights(relative: Array, claimed: float) -> Array:
    """Weights that give c, a, b, ... of `c + a s^p + b s^(p+1) + ...`, as many as rungs."""
    powers = np.concatenate([[0.0], claimed + np.arange(len(relative) - 1)])
    return np.asarray(np.linalg.inv(relative[:, None] ** powers))


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
