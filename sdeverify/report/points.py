"""What of a weak error is resolved, and where it is drawn on a logarithmic axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESOLUTION = 2.0
"""Standard errors that a weak error must reach to count as resolved."""


@dataclass(frozen=True)
class Points:
    """Weak errors as points of a log-log plot.

    Args:
        size: where the point is drawn: |error| where resolved, else the upper limit.
        low: lower end of the error bar; `size` for an unresolved point, which carries an arrow.
        high: upper end of the error bar.
        resolved: whether |error| >= 2 standard errors.
        positive: whether the signed error is above 0 (of meaning where resolved).
        drawn: whether the point can be drawn at all (finite, above 0).
    """

    size: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    resolved: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    drawn: NDArray[np.bool_]


def classify(error: ArrayLike, standard_error: ArrayLike) -> Points:
    """Resolved points at |error| with 2 standard errors either side, the others as upper limits.

    The upper limit of an unresolved point is |error| + 2 standard errors. An error of exactly 0
    with no standard error is not drawn.
    """
    signed = np.asarray(error, dtype=np.float64)
    bar = RESOLUTION * np.nan_to_num(np.asarray(standard_error, dtype=np.float64), nan=np.inf)
    absolute = np.abs(signed)
    resolved = np.isfinite(signed) & (absolute >= bar) & (absolute > 0)
    high = absolute + bar
    size = np.where(resolved, absolute, high)
    low = np.where(resolved, absolute - bar, size)
    drawn = np.isfinite(size) & (size > 0)
    return Points(size, low, high, resolved, signed > 0, drawn)
