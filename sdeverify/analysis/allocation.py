"""Replicas among ensembles: the least variance for a cost, the least cost for a variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdeverify.base.arguments import number
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Allocation:
    """Replicas of each level, and what they give.

    Attributes:
        replicas: whole numbers, at least 2 each.
        cost: sum of replicas times costs.
        standard_error: of the weighted mean.
        variance_times_cost: (sum |w| sd sqrt(cost))^2, which no other split undercuts: the cost of
            a variance of 1.
    """

    replicas: tuple[int, ...]
    cost: float
    standard_error: float
    variance_times_cost: float


def best_allocation(
    weights: ArrayLike,
    costs: ArrayLike,
    standard_deviations: ArrayLike = 1.0,
    *,
    budget: float | None = None,
    standard_error: float | None = None,
) -> Allocation:
    """The split of replicas among levels with the least variance for its cost.

    n_i ~ |w_i| sd_i / sqrt(cost_i), by Lagrange's rule; n_i is then rounded down to fit a budget,
    up to reach a standard error, and is at least 2.

    Args:
        weights: of the levels, see `level_weights`.
        costs: of one replica at each level, in any unit.
        standard_deviations: of one replica at each level.
        budget: the total cost that must not be exceeded, in the same unit; or
        standard_error: what the weighted mean must reach. Give one of the two.

    Raises:
        InvalidInputError: shapes that do not fit, costs that are not positive, a budget too
            small for two replicas a level, or not just one of budget and standard_error.

    Example:
        >>> allocation = sv.best_allocation([1, 1], costs=[1, 4], budget=1000)
        >>> allocation.replicas
        (333, 166)
    """
    w, c, sd = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, np.float64)) for x in (weights, costs, standard_deviations))
    )
    if w.ndim != 1 or np.any(~(c > 0)) or np.any(~(sd >= 0)) or not np.any(w * sd):
        raise InvalidInputError(
            "weights, costs and standard deviations are one a level, the costs positive; got "
            f"{w.tolist()}, {c.tolist()}, {sd.tolist()}."
        )
    share = np.abs(w) * sd / np.sqrt(c)
    product = float(np.sum(share * c)) ** 2
    if (budget is None) == (standard_error is None):
        raise InvalidInputError("give either a budget or a standard_error, not both or none.")
    if standard_error is not None:
        if not number(standard_error, "standard_error") > 0:
            raise InvalidInputError(f"a standard error is positive; got {standard_error}.")
        total = product / standard_error**2
        n = np.maximum(2, np.ceil(share * total / math.sqrt(product) - 1e-9))
    else:
        assert budget is not None
        n = _within(budget, share, c)
    return Allocation(
        tuple(int(i) for i in n),
        float(np.sum(n * c)),
        float(np.sqrt(np.sum(w**2 * sd**2 / n))),
        product,
    )


def _within(budget: float, share: Array, costs: Array) -> NDArray[np.float64]:
    """Whole replicas in the ratio of `share`, at least 2 each, that fit into the budget."""
    if not number(budget, "budget") >= 2 * costs.sum():
        raise InvalidInputError(
            f"two replicas a level cost {2 * costs.sum():g}; the budget is {budget:g}."
        )
    n: NDArray[np.float64] = np.full(share.shape, 2.0)
    free = np.ones(share.shape, dtype=bool)
    while free.any():
        left = budget - 2 * np.sum(costs[~free])
        unit = np.sum(share[free] * costs[free])
        ideal = share * (left / unit) if unit > 0 else np.zeros_like(share)
        small = free & (ideal < 2)
        if not small.any():
            n[free] = np.floor(ideal[free] + 1e-9)
            break
        free &= ~small
    return n
