"""The limit of the error as the step goes to 0, and how large a limit the data cannot exclude.

An order alone does not say that an SDE is right: beside `a s^p` a small constant error, the mark of
a wrong SDE, is not seen. So every fit also states the constant c of

    c + a s^p (1 + b s^r),    p the claimed order, r the spacing of the expansion,

by generalised least squares with the errors' full covariance, and with a third term that is unknown
but no larger than the second (`third_term`). The model is linear, so the interval is exact for
normal errors. That the limit is small beside the error e_0 at the coarsest rung is a test of
equivalence: `|c| >= share |e_0|` is rejected where the interval ends inside. The noise of e_0 adds
to it by `share` only, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sdeverify.analysis.power_law import Whitened

Array = NDArray[Any]

HALF_WIDTH = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Limits:
    """N limits, `(fit,)` each; NaN, and p-values of 1, where fewer than three rungs leave none.

    Attributes:
        limit, low, high: c and its 95% interval.
        coarsest: the error at the coarsest rung, in size.
        small_p_value: one-sided, of a limit of `share` times `coarsest` or more.
        zero_p_value: two-sided, of no limit.
    """

    limit: Array
    low: Array
    high: Array
    coarsest: Array
    small_p_value: Array
    zero_p_value: Array


def limits(data: Whitened, coarsest: Array, claimed: float, share: float) -> Limits:
    """The limits of N sets of errors, `coarsest` in size at the first rung, under one claim."""
    n, rungs = data.error.shape
    if rungs < 3:
        unknown, one = np.full(n, np.nan), np.ones(n)
        return Limits(unknown, unknown, unknown, coarsest, one, one)
    powers = (0.0, claimed, claimed + data.spacing)
    design = np.stack([data.columns(np.full((n, 1), power))[:, 0] for power in powers], axis=-1)
    covariance = np.linalg.inv(np.einsum("nri,nrj->nij", design, design))
    limit = np.einsum("nj,nrj,nr->n", covariance[:, 0], design, data.error)
    standard_error = np.sqrt(covariance[:, 0, 0])
    return Limits(
        limit=limit,
        low=limit - HALF_WIDTH * standard_error,
        high=limit + HALF_WIDTH * standard_error,
        coarsest=coarsest,
        small_p_value=stats.norm.sf((share * coarsest - np.abs(limit)) / standard_error),
        zero_p_value=2 * stats.norm.sf(np.abs(limit) / standard_error),
    )


def limit_columns(every: Sequence[Limits]) -> dict[str, Array]:
    """The columns of `estimate_order` from limits of differently shifted errors.

    The estimate is the first's; the interval is the hull of all, and each test the worst.
    """
    one = every[0]
    low, high = np.min([f.low for f in every], axis=0), np.max([f.high for f in every], axis=0)
    return {
        "limit": one.limit,
        "limit_low": low,
        "limit_high": high,
        "limit_share": share_of(low, high, one.coarsest),
        "limit_p_value": np.max([f.zero_p_value for f in every], axis=0),
        "small_limit_p_value": np.max([f.small_p_value for f in every], axis=0),
    }


def share_of(low: Array, high: Array, size: Array) -> Array:
    """The largest size in an interval, in units of `size`."""
    largest = np.maximum(np.abs(low), np.abs(high))
    return np.divide(largest, size, out=np.full_like(largest, np.inf), where=np.asarray(size) > 0)


def third_term(data: Whitened, claimed: float) -> Array:
    """The covariance of a third term that is about as large as the second at the coarsest rung.

    The second comes from two terms fitted at the claimed p, and counts as no larger than the first.
    """
    at_claim = np.full((len(data.error), 1), claimed)
    _, first, second = (v[:, 0] for v in data.project(at_claim, 2))
    size = np.minimum(np.abs(second), np.abs(first))
    term = size[:, None] * data.step ** (claimed + 2 * data.spacing)
    return np.asarray(term[:, :, None] * term[:, None, :])
