"""How far a scaling rule holds: distances of scaled runs to the run, and the largest factor.

The distance is the signed difference of expectations, E scaled - E run. A rule *holds* at kappa for
an observable if the largest |distance| over the compared steps is at most a tolerance. Since the
largest of noisy values is biased upwards, what is stated rests on bands that cover all steps at
once (`bands`): "within" where the band's upper end is at most the tolerance, "beyond" where its
lower end exceeds it, and "open" where the replicas do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdeverify.analysis.bands import block_residuals, simultaneous_quantile
from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP
from sdeverify.analysis.datasets.schema import check_chain
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]

DIMS = (STEP, OBSERVABLE)
WITHIN, BEYOND, OPEN = "within", "beyond", "open"


def chain_distance(
    chain: xr.Dataset, reference: xr.Dataset, confidence: float = 0.95
) -> xr.Dataset:
    """The signed distance E chain - E reference of two independent ensembles of chains.

    Args:
        chain, reference: from `simulate` with different seeds; same steps and observables. Their
            clocks may differ, since a rival rule runs on another one.
        confidence: of the interval of the largest distance over time.

    Returns:
        `distance`, `standard_error` over (step, observable); `max_distance`, the plain maximum of
        |distance| over time, and its interval `max_distance_low`, `max_distance_high` over
        (observable), which covers at `confidence` or more.

    Raises:
        InvalidInputError: not chains, or axes that differ.
    """
    for ds in (chain, reference):
        check_chain(ds)
    for name in DIMS:
        if not np.array_equal(chain[name].values, reference[name].values):
            raise InvalidInputError(
                f"both ensembles have one {name} axis; got {chain[name].values.tolist()} and "
                f"{reference[name].values.tolist()}."
            )
    sides = (chain, reference)
    distance = chain["mean"] - reference["mean"]
    variance = [ds["standard_error"] ** 2 for ds in sides]
    residuals = [block_residuals(ds, ds["block_mean"]) for ds in sides]
    return _largest(sides, distance, variance, residuals, confidence)


def chain_log_ratio(
    chain: xr.Dataset, reference: xr.Dataset, confidence: float = 0.95
) -> xr.Dataset:
    """As `chain_distance`, for log(E chain/E reference), of observables with positive means.

    Standard errors are those of the logarithms to first order. Where a mean is not positive the
    distance is infinite.
    """
    sides = (chain, reference)
    for ds in sides:
        check_chain(ds)
    positive = (chain["mean"] > 0) & (reference["mean"] > 0)
    means = [ds["mean"].where(positive, 1.0) for ds in sides]
    distance: xr.DataArray = xr.where(positive, np.log(means[0] / means[1]), np.inf)
    variance = [(ds["standard_error"] / m) ** 2 for ds, m in zip(sides, means, strict=True)]
    residuals = [
        block_residuals(ds, ds["block_mean"] / m) for ds, m in zip(sides, means, strict=True)
    ]
    return _largest(sides, distance, variance, residuals, confidence)


def _largest(
    sides: tuple[xr.Dataset, xr.Dataset],
    distance: xr.DataArray,
    variance: list[xr.DataArray],
    residuals: list[Array],
    confidence: float,
) -> xr.Dataset:
    """The distance with its standard error, and its largest size over time with a band."""
    value = distance.transpose(*DIMS).values
    error = np.sqrt(sum(part.transpose(*DIMS).values for part in variance))
    degrees = min(float(ds.block_count.sum()) for ds in sides) - 1.0
    low, high = np.empty(value.shape[1]), np.empty(value.shape[1])
    for o in range(value.shape[1]):
        noisy = error[:, o] > 0
        q = simultaneous_quantile(
            [r[:, noisy, o] for r in residuals], int(noisy.sum()), confidence, degrees
        )
        size, half = np.abs(value[:, o]), q * error[:, o]
        low[o], high[o] = max(0.0, np.max(size - half)), np.max(size + half)
    return xr.Dataset(
        {
            "distance": (DIMS, value),
            "standard_error": (DIMS, error),
            "max_distance": (OBSERVABLE, np.abs(value).max(0)),
            "max_distance_low": (OBSERVABLE, low),
            "max_distance_high": (OBSERVABLE, high),
        },
        coords={name: sides[1][name] for name in (STEP, "time", OBSERVABLE)},
    )


class Reach(NamedTuple):
    """The largest tested factor up to which a rule holds.

    Attributes:
        value: by the distances as measured, their noise ignored.
        low: up to here every factor is resolved to be within the tolerance; 1 if none is.
        high: the last tested factor before the first that is resolved to be beyond it; infinite if
            none is, so that the rule may go on beyond what was tested.
        status: "resolved" (low equals high), "not resolved", or "at least" (all within).
    """

    value: float
    low: float
    high: float
    status: str


def judge(low: ArrayLike, high: ArrayLike, tolerance: ArrayLike) -> NDArray[np.object_]:
    """Says "within", "beyond" or "open" from the band of the largest distance."""
    under, over = np.asarray(high) <= tolerance, np.asarray(low) > tolerance
    found: NDArray[np.object_] = np.where(under, WITHIN, np.where(over, BEYOND, OPEN)).astype(
        object
    )
    return found


def reach(kappas: Sequence[float], holds: Sequence[bool], judged: Sequence[str]) -> Reach:
    """The largest factor from what was found at each of `kappas`, ascending.

    Args:
        holds: whether the measured largest distance is within the tolerance.
        judged: "within", "beyond" or "open" for each.
    """
    value = _last(kappas, [not held for held in holds])
    low = _last(kappas, [name != WITHIN for name in judged])
    beyond = BEYOND in judged
    high = _last(kappas, [name == BEYOND for name in judged]) if beyond else math.inf
    if not beyond and low == kappas[-1]:
        return Reach(value, low, high, "at least")
    return Reach(value, low, high, "resolved" if low == high else "not resolved")


def _last(kappas: Sequence[float], stops: Sequence[bool]) -> float:
    """The last factor before the first stop; 1 where the first is one."""
    passed = list(stops).index(True) if any(stops) else len(stops)
    return float(kappas[passed - 1]) if passed else 1.0


def crossing(kappas: Sequence[float], values: Sequence[float]) -> float:
    """The factor at which a quantity that is 0 at kappa = 1 first exceeds 1; infinite if nowhere.

    Between the tested factors it is taken as linear in log kappa, and from a factor to one where
    it is infinite as beyond at once.
    """
    before, last = 0.0, 0.0
    for kappa, value in zip(kappas, values, strict=True):
        at = math.log(kappa)
        if not value <= 1:
            share = (1 - last) / (value - last) if math.isfinite(value) else 0.0
            return math.exp(before + share * (at - before))
        before, last = at, value
    return math.inf
