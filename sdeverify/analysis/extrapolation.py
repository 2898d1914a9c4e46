"""SDE expectations from discrete runs at a few low SVAG levels, by extrapolation in the step.

At level l one step of the optimizer is `refinement` own steps, l for SGD and momentum and l^2 for
RMSprop and Adam. The weak error has an expansion in s = 1/refinement: for adaptive methods, too,
all powers of 1/l are even, since the amplified noise's skewness falls as 1/l. Weights that sum to
1 and let s, ..., s^q vanish leave an error of order s^(q+1) (Talay and Tubaro 1990).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdeverify.axes import OBSERVABLE, STEP
from sdeverify.errors import InvalidInputError
from sdeverify.schema import check_chain

Array = NDArray[Any]

DIMS = (STEP, OBSERVABLE)
RUNG = "rung"


def level_weights(
    refinements: ArrayLike, terms: int | None = None, variances: ArrayLike | None = None
) -> Array:
    """Weights w with sum w = 1 and sum w s^j = 0 for j = 1 ... terms, s = 1/refinement.

    Levels 1, 2, 4 of SGD: (1, -6, 8)/3; of an adaptive method, refinements 1, 4, 16:
    (1, -20, 64)/45. With more levels than `terms + 1` the weights of least variance are taken.

    Args:
        refinements: own steps in one step of the optimizer at each level: l, or l^2 (adaptive).
        terms: terms removed, `len(refinements) - 1` where it is left out; 0 removes none.
        variances: of the levels' means, up to a factor; equal ones where it is left out.

    Raises:
        InvalidInputError: equal or non-positive refinements, or too few for the terms.
    """
    r = np.asarray(refinements, dtype=np.float64)
    if r.ndim != 1 or r.size == 0 or np.any(~(r > 0)) or len(np.unique(r)) < r.size:
        raise InvalidInputError(f"levels are different and positive; got refinements {r.tolist()}.")
    q = r.size - 1 if terms is None else terms
    if not 0 <= q < r.size:
        raise InvalidInputError(
            f"{q} terms need {max(q, 0) + 1} levels or more, and 0 terms are the fewest; got "
            f"{r.size} levels."
        )
    v = np.ones_like(r) if variances is None else np.asarray(variances, dtype=np.float64)
    if v.shape != r.shape or np.any(~(v > 0)):
        raise InvalidInputError(f"variances are positive, one a level; got {v.tolist()}.")
    s = r.min() / r
    conditions = s ** np.arange(q + 1)[:, None]
    wanted = np.eye(q + 1)[0]
    # Least sum of w^2 v under the conditions: w = sqrt(1/v) x with the least |x|.
    root = np.sqrt(1 / v)
    x, *_ = np.linalg.lstsq(conditions * root, wanted, rcond=None)
    return np.asarray(root * x)


def extrapolate_levels(chains: Sequence[xr.Dataset], terms: int | None = None) -> xr.Dataset:
    """The SDE's expectations from chains at low levels, with the error that is left.

    Real levels are fine. The powers come from each chain's `refinement`, so the same call serves
    SGD (1/l) and adaptive methods (1/l^2).

    Args:
        chains: from `simulate` at different SVAG levels and with different seeds, or exact
            datasets; same steps, times and observables.
        terms: terms of the expansion that are removed; one less than there are levels by default.

    Returns:
        Over (step, observable): `mean` and `standard_error`; `last_term`, the change by the last
        removed term, with its standard error: a cautious size of the bias that is left, on which
        the extrapolation should not be trusted to improve by much more than tenfold. Over (rung):
        `weight`, `refinement`. Attributes as the first chain's, `kind` "extrapolation".

    Raises:
        InvalidInputError: not chains, axes that differ, two equal levels, or one seed twice,
            since chains of one seed share their mini-batches and are not independent.
    """
    ordered = _checked(chains)
    refinements = np.array([float(c.attrs["refinement"]) for c in ordered])
    q = len(ordered) - 1 if terms is None else terms
    mean = np.stack([c["mean"].transpose(*DIMS).values for c in ordered])
    variance = np.stack([c["standard_error"].transpose(*DIMS).values ** 2 for c in ordered])
    relative = _relative(variance)
    w = level_weights(refinements, q, relative)
    fewer = np.zeros_like(w)
    if q > 0:
        # One term less, from the finest levels.
        fewer[-q:] = level_weights(refinements[-q:], q - 1, relative[-q:])
    else:
        fewer[:] = w
    fields = {
        "mean": np.tensordot(w, mean, axes=1),
        "standard_error": np.sqrt(np.tensordot(w**2, variance, axes=1)),
        "last_term": np.tensordot(fewer - w, mean, axes=1),
        "last_term_standard_error": np.sqrt(np.tensordot((fewer - w) ** 2, variance, axes=1)),
    }
    attrs = {
        **ordered[0].attrs,
        "kind": "extrapolation",
        "terms": q,
        "refinements": json.dumps(refinements.tolist()),
    }
    return xr.Dataset(
        {name: (DIMS, value) for name, value in fields.items()},
        coords={
            **{name: ordered[0][name] for name in (STEP, "time", OBSERVABLE)},
            RUNG: np.arange(len(ordered)),
            "refinement": (RUNG, refinements),
            "weight": (RUNG, w),
        },
        attrs=attrs,
    )


def svag_cost(level: float, power: int) -> float:
    """Mini-batch gradients in one step of the optimizer at a level: two an own step above level 1.

    Args:
        power: 1 for SGD and momentum, 2 for RMSprop and Adam.
    """
    if not level >= 1 or power not in (1, 2):
        raise InvalidInputError(
            f"SVAG has levels >= 1, with l^power own steps, power 1 or 2; got level {level}, "
            f"power {power}."
        )
    return 1.0 if level == 1 else 2.0 * level**power


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
        costs: of one replica at each level, in any unit; see `svag_cost`.
        standard_deviations: of one replica at each level.
        budget: the total cost that must not be exceeded, in the same unit; or
        standard_error: what the weighted mean must reach. Give one of the two.

    Raises:
        InvalidInputError: shapes that do not fit, costs that are not positive, a budget too
            small for two replicas a level, or not just one of budget and standard_error.
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
        if not standard_error > 0:
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
    if not budget >= 2 * costs.sum():
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


def _relative(variance: Array) -> Array:
    """The levels' variances in units of their mean, over all steps and observables that vary."""
    total = variance.sum(0)
    varies = total > 0
    if not varies.any():
        return np.ones(len(variance))
    relative = np.mean(variance[:, varies] / total[varies], axis=1)
    return np.asarray(np.maximum(relative, 1e-6))


def _checked(chains: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """The chains from the coarsest to the finest."""
    if len(chains) < 2:
        raise InvalidInputError(f"extrapolation takes two levels or more; got {len(chains)}.")
    for chain in chains:
        check_chain(chain)
        if "refinement" not in chain.attrs:
            raise InvalidInputError("each chain says its `refinement` (own steps in one step).")
    ordered = sorted(chains, key=lambda c: float(c.attrs["refinement"]))
    first = ordered[0]
    for other in ordered[1:]:
        for axis in (STEP, "time"):
            a, b = first[axis].values, other[axis].values
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-6, atol=1e-12):
                raise InvalidInputError(
                    f"the chains have one {axis} axis; got {a.tolist()[:4]}... and "
                    f"{b.tolist()[:4]}... Record steps that every level visits."
                )
        if list(first[OBSERVABLE].values) != list(other[OBSERVABLE].values):
            raise InvalidInputError(
                f"the chains have the same observables; got {first[OBSERVABLE].values.tolist()} "
                f"and {other[OBSERVABLE].values.tolist()}."
            )
    seeds = [c.attrs.get("seed") for c in ordered if c.attrs["kind"] != "exact"]
    if len(set(seeds)) < len(seeds):
        raise InvalidInputError(
            f"the chains need different seeds, got {seeds}: chains of one seed share mini-batches, "
            "and the standard error takes them for independent."
        )
    return ordered
