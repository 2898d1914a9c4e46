"""Weak errors: the difference between a chain's and an SDE's expectations, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.bands import simultaneous_quantile
from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP, SUBSTEPS, SUBSTEPS_BIS
from sdeverify.analysis.datasets.identity import IDENTITY, same_run
from sdeverify.analysis.datasets.moments import (
    extrapolation_weights,
    pool_blocks,
    variance_of_the_mean,
)
from sdeverify.analysis.datasets.schema import check_chain, check_path
from sdeverify.analysis.sides import EXTRAPOLATION, Ensemble, difference, side_of
from sdeverify.base.arguments import confidence_level
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]

DIMS = (STEP, OBSERVABLE)
COORDINATE_TOLERANCE = 1e-6


def weak_error(chain: xr.Dataset, path: xr.Dataset, *, confidence: float = 0.95) -> xr.Dataset:
    """The signed weak error `E phi(chain) - E phi(SDE)` per step and observable.

    The SDE's side is the extrapolation to dt = 0 where the path has two or more `substeps`.

    Args:
        chain: from `simulate`, from `extrapolate_levels`, or an exact dataset.
        path: from `solve`, from `extrapolate_levels`, or an exact dataset; same steps, times and
            observables as `chain`.
        confidence: of the interval of the largest error over time.

    Returns:
        `error`, `standard_error`, `chain_mean`, `path_mean`, `chain_variance`, `path_variance` (of
        the means), `side_covariance` (of the two means: not 0 where one level stands in both),
        `integrator_bias` (finest substeps less extrapolated; NaN for one substeps
        value) with its standard error, and `integrator_residual`, over (step, observable);
        `max_error`, `max_error_low`, `max_error_high`, `max_step` over (observable). `max_error`
        is the plain maximum of |error|, biased upwards; its interval covers at `confidence` or
        more (`bands`). Where a side is exact, `bound` carries its numerical error.

        `integrator_residual` is what extrapolation may have left, with sign: the expansion
        `a dt + b dt^2 + ...` in level-1 steps leaves at most `|bias| s_n / (s_1 ... s_n)`, `s_i`
        the substeps, ascending, if its coefficients halve or more from term to term. Extrapolated
        levels take `last_term` for both, on either side: it bounds what is left cautiously.

    Raises:
        InvalidInputError: not a chain and a path, values not finite, axes that differ, or two
            sides of different problems or starts.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> sgd = sv.SGD(learning_rate=0.5)
        >>> chain = sv.simulate(sgd, oracle, theta0, 4, loss, replicas=1024)
        >>> path = sv.solve(sv.derive(sgd, oracle), theta0, 4, loss, replicas=1024, substeps=(4, 8))
        >>> errors = sv.weak_error(chain, path)
        >>> float(errors["error"][-1, 0].round(3)), float(errors["standard_error"][-1, 0].round(3))
        (-0.004, 0.002)
    """
    confidence = confidence_level(confidence)
    check_chain(chain)
    check_path(path)
    same_run([chain, path])
    path = _aligned(chain, path)
    ours, theirs = side_of(chain), side_of(path)
    random, covariance = difference(ours, theirs)
    bias, bias_error, residual = integrator(path)
    if chain.attrs["kind"] == EXTRAPOLATION:
        residual = np.copysign(np.abs(residual) + np.abs(integrator(chain)[2]), residual)
    fields = {
        "error": ours.mean - theirs.mean,
        "standard_error": np.sqrt(np.maximum(ours.variance + theirs.variance - 2 * covariance, 0)),
        "chain_mean": ours.mean,
        "path_mean": theirs.mean,
        "chain_variance": ours.variance,
        "path_variance": theirs.variance,
        "side_covariance": covariance,
        "integrator_bias": bias,
        "integrator_bias_standard_error": bias_error,
        "integrator_residual": residual,
    }
    bounds = [ds["bound"].transpose(*DIMS).values for ds in (chain, path) if "bound" in ds]
    if bounds:
        fields["bound"] = np.sum(bounds, axis=0)
    ds = xr.Dataset(
        {name: (DIMS, value) for name, value in fields.items()},
        coords={STEP: chain[STEP], "time": chain["time"], OBSERVABLE: chain[OBSERVABLE]},
        attrs=_attrs(chain, path),
    )
    replicas = int(min((e.replicas for e in random), default=0))
    ds = ds.merge(largest_over_time(ds, random, confidence))
    return ds.assign_attrs(confidence=confidence, replicas=replicas)


def _aligned(chain: xr.Dataset, path: xr.Dataset) -> xr.Dataset:
    """`path` with the chain's order of observables, once its axes are found to agree."""
    ours, theirs = ([str(o) for o in ds[OBSERVABLE].values] for ds in (chain, path))
    if set(ours) != set(theirs):
        raise InvalidInputError(
            f"the chain's observables are {ours}, the path's {theirs}; "
            "compute the same on both sides"
        )
    for name in (STEP, "time"):
        a, b = chain[name].values, path[name].values
        if a.shape != b.shape or not np.allclose(a, b, rtol=COORDINATE_TOLERANCE, atol=1e-12):
            raise InvalidInputError(
                f"chain and path are compared at the same {name}s; the chain has {_brief(a)}, the "
                f"path {_brief(b)}. Both start from one state and count level-1 steps from the "
                "beginning of training."
            )
    return path if ours == theirs else path.sel({OBSERVABLE: chain[OBSERVABLE]})


def _brief(values: Array) -> str:
    shown = ", ".join(f"{v:.6g}" for v in values[:4])
    return f"[{shown}{', ...' if len(values) > 4 else ''}] ({len(values)})"


def integrator(path: xr.Dataset) -> tuple[Array, Array, Array]:
    """The bias of the finest dt, its standard error, and what extrapolation may have left."""
    shape = (path.sizes[STEP], path.sizes[OBSERVABLE])
    if path.attrs["kind"] == "exact":
        return np.zeros(shape), np.zeros(shape), np.zeros(shape)
    if path.attrs["kind"] == EXTRAPOLATION:
        last, error = (path[f"last_term{e}"].transpose(*DIMS).values for e in _LAST_TERM)
        return last, error, np.copysign(np.maximum(np.abs(last), error), last)
    substeps = path[SUBSTEPS].values.astype(np.float64)
    if len(substeps) == 1:
        return np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    means = path["block_mean"].transpose("block", SUBSTEPS, *DIMS).values
    comoments = path["block_comoment"].transpose("block", SUBSTEPS, SUBSTEPS_BIS, *DIMS).values
    n, mean, comoment = pool_blocks(path.block_count.values, means, comoments)
    w = -extrapolation_weights(substeps)
    w[-1] += 1.0
    bias = np.tensordot(w, mean, axes=(0, 0))
    variance = np.einsum("a,c,acko->ko", w, w, variance_of_the_mean(comoment, n))
    standard_error = np.sqrt(np.maximum(variance, 0.0))
    size = np.maximum(np.abs(bias), standard_error)
    residual = np.copysign(size, bias) * substeps[-1] / np.prod(substeps)
    return bias, standard_error, residual


_LAST_TERM = ("", "_standard_error")


def largest_over_time(ds: xr.Dataset, random: Sequence[Ensemble], confidence: float) -> xr.Dataset:
    """The largest |error| over time, per observable, with its interval.

    `random` are the ensembles with any spread; others (a gradient flow's) add no uncertainty.
    """
    size, s = np.abs(ds["error"].values), ds["standard_error"].values
    residuals = [e.weight * e.residuals for e in random]
    dof = min((e.replicas for e in random), default=np.inf) - 1.0
    bound = ds["bound"].values if "bound" in ds else np.zeros_like(size)
    low, high = np.empty(size.shape[1]), np.empty(size.shape[1])
    for o in range(size.shape[1]):
        noisy = s[:, o] > 0
        q = simultaneous_quantile(
            [r[:, noisy, o] for r in residuals], int(noisy.sum()), confidence, dof
        )
        half = q * s[:, o] + bound[:, o]
        low[o] = max(0.0, np.max(size[:, o] - half))
        high[o] = np.max(size[:, o] + half)
    return xr.Dataset(
        {
            "max_error": (OBSERVABLE, size.max(axis=0)),
            "max_error_low": (OBSERVABLE, low),
            "max_error_high": (OBSERVABLE, high),
            "max_step": (OBSERVABLE, ds[STEP].values[size.argmax(axis=0)]),
        }
    )


def _attrs(chain: xr.Dataset, path: xr.Dataset) -> dict[str, Any]:
    """Both sides' attributes under `chain_` and `path_`; what the ladder needs by plain name."""
    attrs: dict[str, Any] = {"kind": "weak_error"}
    for side, ds in (("chain", chain), ("path", path)):
        attrs.update({f"{side}_{name}": value for name, value in ds.attrs.items()})
        attrs[f"{side}_id"] = str(ds.attrs.get("fingerprint", ""))
    kept = ("name", "time_per_step", "time_per_level1_step", "level", "refinement")
    for name in (*kept, IDENTITY, "dtype"):
        if name in chain.attrs:
            attrs[name] = chain.attrs[name]
    if "model" in path.attrs or "name" in path.attrs:
        attrs["model"] = path.attrs.get("model", path.attrs.get("name", ""))
    sampled = path.attrs["kind"] == "path"
    attrs["integrator_bias_measured"] = int(path.sizes[SUBSTEPS] > 1) if sampled else 1
    return attrs
