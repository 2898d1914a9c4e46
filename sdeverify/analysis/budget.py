"""How many replicas a resolved order and a small limit take, from a pilot run."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from sdeverify.analysis.datasets.axes import STEP
from sdeverify.analysis.limit import HALF_WIDTH, limits
from sdeverify.analysis.order import DIMS, SIGNAL_LEVEL, default_steps
from sdeverify.analysis.power_law import CURVATURE, whiten
from sdeverify.analysis.rungs import RUNG, RUNG_BIS
from sdeverify.analysis.verdict import SMALL_LIMIT
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]


STANDARD_ERRORS_OF_LIMIT = 4.0
"""In `SMALL_LIMIT` of the coarsest error, so that a limit of 0 is nearly always seen as small."""


def replicas_needed(ladder: xr.Dataset, target: float = 0.15, *, terms: int = 1) -> xr.Dataset:
    """How many replicas bring the order's standard error down to `target`, and the limit's.

    The pilot fixes the amplitude a of `a s^p (1 + b s)` at the claimed p and b = 0. The Fisher
    information of (a, p, b), which grows with the replicas if both sides grow together, and that of
    a plausible b (`power_law`), which does not, give the standard error of p. `0.15` leaves room
    for about three standard errors between a claim and half an order less. The error's limit has
    to be known to a quarter of `SMALL_LIMIT` of the coarsest error.

    Args:
        ladder: the pilot's errors, with at least `terms + 1` rungs.
        target: the standard error that an order is to have.
        terms: 2 for a second term of any size, which takes more replicas.

    Returns:
        Over (observable, step): `factor` (of the pilot's replicas) for the order, `limit_factor`
        for the limit (NaN with two rungs), `replicas` for both, `order_standard_error` of the
        pilot, `path_share` (of its variance that the SDE's side causes: above 1/2, grow the path
        first), `residual_share`, what the integrator may have left beside the coarsest error: no
        number of replicas helps where it is near `SMALL_LIMIT`; and `resolved`, False where the
        pilot's own signal is noise, so that the factors are guesses, usually too small.

    Raises:
        InvalidInputError: not a ladder of sampled errors, or a target that is not positive.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> ladder, sgd = sv.SvagLevels([1, 2, 4]), sv.SGD(learning_rate=0.5)
        >>> how = sv.Coupled(paths=64, trunks=16, chains=64)
        >>> pilot = sv.coupled_ladder(ladder, sgd, oracle, theta0, [4], loss, how=how)
        >>> needed = sv.replicas_needed(pilot)
        >>> needed["factor"].dims, bool(needed["factor"][0, -1] > 1)
        (('observable', 'step'), True)
    """
    if ladder.attrs.get("kind") != "ladder" or not bool((ladder["standard_error"] > 0).any()):
        raise InvalidInputError("replicas_needed takes a ladder of sampled weak errors (a pilot)")
    if not target > 0:
        raise InvalidInputError(f"the target standard error is positive; got {target}")
    rungs = ladder.sizes[RUNG]
    if terms not in (1, 2) or rungs < terms + 1:
        raise InvalidInputError(f"{terms} terms need {terms + 1} rungs or more; got {rungs}")
    chosen = ladder.sel({STEP: default_steps(ladder)})
    s = chosen["time_per_step"].values.astype(np.float64)
    error, covariance, path, residual = (
        chosen[name].transpose(*DIMS, *axes).values
        for name, axes in (
            ("error", (RUNG,)),
            ("error_covariance", (RUNG, RUNG_BIS)),
            ("path_variance", (RUNG,)),
            ("integrator_residual", (RUNG,)),
        )
    )
    shape = error.shape[:2]
    error, covariance, path, residual = (
        v.reshape(-1, *v.shape[2:]) for v in (error, covariance, path, residual)
    )
    p = float(ladder.attrs["claimed_order"])
    data, usable = whiten(s, error, covariance, 1.0)
    amplitude = data.project(np.full((len(error), 1), p), 1)[1][:, 0]
    information, share = _information(data.step, p, amplitude, covariance, path, usable)
    plausible = CURVATURE**-2 if terms == 1 else 0.0
    variance = _order_variance(information, np.ones(len(error)), plausible)
    factor = _factor(information, target**2, plausible)
    signal = stats.chi2.sf(data.zero, rungs) < SIGNAL_LEVEL
    size = np.where(amplitude == 0, np.nan, np.abs(amplitude))
    limit = limits(data, size, p, SMALL_LIMIT)
    target_error = SMALL_LIMIT * size / STANDARD_ERRORS_OF_LIMIT
    limit_factor = np.where(
        usable, ((limit.high - limit.limit) / HALF_WIDTH / target_error) ** 2, np.nan
    )
    both = np.fmax(factor, limit_factor)
    fields = {
        "factor": factor,
        "limit_factor": limit_factor,
        "replicas": np.ceil(both * float(ladder.attrs.get("replicas", 0)) - 1e-9),
        "residual_share": np.abs(residual[:, 0]) / size,
        "order_standard_error": np.sqrt(variance),
        "path_share": share,
        "resolved": signal & usable,
    }
    return xr.Dataset(
        {name: (DIMS, value.reshape(shape)) for name, value in fields.items()},
        coords={dim: chosen[dim] for dim in DIMS},
        attrs={"kind": "budget", "target": target, "terms": terms},
    )


def _information(
    x: Array, p: float, amplitude: Array, covariance: Array, path: Array, usable: Array
) -> tuple[Array, Array]:
    """The Fisher information of (a, p, b), b at the coarsest rung, and the paths' share in p."""
    information, share = np.full((len(amplitude), 3, 3), np.nan), np.full(len(amplitude), np.nan)
    for i in np.nonzero(usable & (amplitude != 0))[0]:
        a = amplitude[i]
        jacobian = np.stack([x**p, a * x**p * np.log(x), a * x ** (p + 1.0)], axis=1)
        weighted = np.linalg.solve(covariance[i], jacobian)
        information[i] = jacobian.T @ weighted
        row = np.linalg.solve(information[i][:2, :2], weighted.T[:2])[1]
        of_path = covariance[i] - np.diag(np.diag(covariance[i])) + np.diag(path[i])
        share[i] = row @ of_path @ row / (row @ covariance[i] @ row)
    return information, share


def _order_variance(information: Array, factor: Array, plausible: float) -> Array:
    """The variance of p with `factor` times the pilot's replicas."""
    total = factor[:, None, None] * information
    total[:, 2, 2] += plausible
    known = np.isfinite(total).all((1, 2))
    inverse = np.linalg.pinv(np.where(known[:, None, None], total, np.eye(3)), hermitian=True)
    return np.where(known, inverse[:, 1, 1], np.nan)


def _factor(information: Array, variance: float, plausible: float) -> Array:
    """The factor of the replicas that brings p's variance down to one that is wanted."""
    low, high = np.full(len(information), -30.0), np.full(len(information), 60.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        enough = _order_variance(information, np.exp(middle), plausible) <= variance
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    known = np.isfinite(information).all((1, 2))
    return np.where(known, np.exp(high), np.nan)
