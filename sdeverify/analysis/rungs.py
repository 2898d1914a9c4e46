"""Ladders: weak errors at several step sizes, with their covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP
from sdeverify.analysis.datasets.identity import same_run
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]

DIMS = (STEP, OBSERVABLE)
RUNG, RUNG_BIS = "rung", "rung_bis"


def ladder(
    errors: Sequence[xr.Dataset],
    ladder: str,
    claimed_order: float = 1.0,
    tests_noise: bool | None = None,
    **coords: ArrayLike,
) -> xr.Dataset:
    """Weak errors of several rungs side by side, coarsest first, with their full covariance.

    Args:
        errors: one weak-error dataset a rung, with the same observables at the same times.
        ladder: its name: "svag", "learning_rate", "ballistic", or the user's own.
        claimed_order: the order in `time_per_step` that the SDE claims.
        tests_noise: whether an SDE with a wrong noise leaves an error that does not vanish, see
            `overall_verdict`; by default what is known of the ladder of that name.
        coords: coordinates along the rungs, such as `level=[1, 2, 4]`; `time_per_step` is read
            from the datasets' attributes unless it is given here.

    Returns:
        The errors' variables over (rung, step, observable), and `error_covariance` over
        (rung, rung_bis, step, observable): rungs measured against one path (`path_id`) share
        that path's variance; everything else is independent. `step` is the coarsest rung's.

    Raises:
        InvalidInputError: fewer than two rungs, equal steps, times or observables that differ, or
            a chain that comes twice.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> def error(eta):
        ...     sgd, run = sv.SGD(learning_rate=eta), (theta0, [1 / eta], loss)
        ...     chain = sv.simulate(sgd, oracle, *run, replicas=64)
        ...     path = sv.solve(sv.derive(sgd, oracle), *run, replicas=64, substeps=2)
        ...     return sv.weak_error(chain, path)
        >>> rates = [0.5, 0.25]
        >>> errors = sv.ladder([error(eta) for eta in rates], "learning_rate", learning_rate=rates)
        >>> errors["error"].dims, errors["time_per_step"].values.tolist()
        (('rung', 'step', 'observable'), [0.5, 0.25])
    """
    if len(errors) < 2:
        raise InvalidInputError(f"a ladder has two rungs or more, better five; got {len(errors)}")
    same_run(errors)
    scale = _rung_coordinates(errors, coords)
    order = np.argsort(-scale["time_per_step"], kind="stable")
    rungs = [_plain(errors[i]) for i in order]
    scale = {name: values[order] for name, values in scale.items()}
    _check_rungs(rungs, scale["time_per_step"])
    path_ids = [str(r.attrs.get("path_id", "")) for r in rungs]
    first = rungs[0]
    rung_steps = np.stack([r[STEP].values for r in rungs])
    aligned = [
        r.drop_vars("time").assign_coords({STEP: first[STEP]}).sel({OBSERVABLE: first[OBSERVABLE]})
        for r in rungs
    ]
    ds = xr.concat(
        aligned, dim=RUNG, join="exact", coords="minimal", compat="override", combine_attrs="drop"
    )
    ds["error_covariance"] = ((RUNG, RUNG_BIS, *DIMS), _covariance(ds, path_ids))
    named = {name: (RUNG, values) for name, values in scale.items()}
    ds = ds.assign_coords(
        {
            RUNG: np.arange(len(rungs)),
            RUNG_BIS: np.arange(len(rungs)),
            "time": first["time"],
            "rung_step": ((RUNG, STEP), rung_steps),
            "path_id": (RUNG, np.array(path_ids, dtype=object)),
            **named,
        }
    )
    known = {} if tests_noise is None else {"tests_noise": tests_noise}
    label = [name for name in coords if name != "time_per_step"]
    common = {k: v for k, v in first.attrs.items() if all(r.attrs.get(k) == v for r in rungs)}
    return ds.assign_attrs(
        {
            **common,
            "kind": "ladder",
            "ladder": ladder,
            "claimed_order": float(claimed_order),
            **known,
            **({"label_name": label[0]} if label else {}),
        }
    )


_OPTIONAL = (
    "chain_mean",
    "path_mean",
    "integrator_bias",
    "integrator_bias_standard_error",
)
_ZERO = (
    "standard_error",
    "chain_variance",
    "path_variance",
    "side_covariance",
    "integrator_residual",
)


def _plain(ds: xr.Dataset) -> xr.Dataset:
    """The variables that a ladder carries; an exact result needs only `error` and `bound`."""
    if "error" not in ds or not {STEP, OBSERVABLE, "time"} <= set(ds.coords):
        raise InvalidInputError(
            "a rung is a dataset of weak_error(chain, path), or of the exact route, with 'error' "
            "over (step, observable) and the coordinate 'time'; got "
            f"{sorted(map(str, ds.variables))}"
        )
    keep = ["error", *(n for n in (*_OPTIONAL, *_ZERO, "bound") if n in ds)]
    keep += [n for n in ("max_error", "max_error_low", "max_error_high", "max_step") if n in ds]
    out = ds[keep].reset_coords(
        [c for c in ds.coords if c not in (STEP, OBSERVABLE, "time")], drop=True
    )
    zero = xr.zeros_like(ds["error"])
    missing = {name: zero for name in _ZERO if name not in ds}
    if "standard_error" in missing and "bound" not in ds:
        raise InvalidInputError("a rung needs 'standard_error', or 'bound' where it is exact")
    return out.assign(missing)


def _rung_coordinates(
    errors: Sequence[xr.Dataset], coords: dict[str, ArrayLike]
) -> dict[str, Array]:
    scale = {name: np.asarray(values) for name, values in coords.items()}
    for name in ("time_per_step", "level", "learning_rate"):
        if name not in scale and all(name in e.attrs for e in errors):
            scale[name] = np.array([e.attrs[name] for e in errors])
    if "time_per_step" not in scale:
        raise InvalidInputError(
            "the step of a ladder is time_per_step, the SDE time of one step of each rung's chain; "
            "it is neither in the datasets' attributes nor given as time_per_step=[...]"
        )
    for name, values in scale.items():
        if values.shape != (len(errors),):
            raise InvalidInputError(
                f"'{name}' has one value a rung, ({len(errors)},); got shape {values.shape}"
            )
    scale["time_per_step"] = scale["time_per_step"].astype(np.float64)
    return scale


def _check_rungs(rungs: Sequence[xr.Dataset], steps: Array) -> None:
    if np.any(steps <= 0) or np.any(steps[1:] >= steps[:-1] * (1 - 1e-9)):
        raise InvalidInputError(
            f"the rungs have positive, different time_per_step; got {steps.tolist()}"
        )
    first = rungs[0]
    for r in rungs[1:]:
        if set(map(str, r[OBSERVABLE].values)) != set(map(str, first[OBSERVABLE].values)):
            raise InvalidInputError(
                "the rungs have one set of observables; got "
                f"{first[OBSERVABLE].values.tolist()} and {r[OBSERVABLE].values.tolist()}"
            )
        a, b = first["time"].values, r["time"].values
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-6, atol=1e-12):
            raise InvalidInputError(
                "the rungs are compared at the same times on the SDE's clock; got "
                f"{a.tolist()[:4]}... and {b.tolist()[:4]}... Choose steps that every rung visits."
            )
    chains = [r.attrs.get("chain_id", "") for r in rungs]
    known = [c for c in chains if c]
    if len(set(known)) < len(known):
        raise InvalidInputError("two rungs hold one and the same chain; each rung has its own")


def _covariance(ds: xr.Dataset, path_ids: Sequence[str]) -> Array:
    """Variances on the diagonal; what two rungs with one path share off it.

    cov(X_i - P, X_j - P) = var P - cov(X_i, P) - cov(X_j, P): the last two are 0 but for levels
    that the extrapolation P is made of.
    """
    variance = ds["standard_error"].transpose(RUNG, *DIMS).values ** 2
    path = ds["path_variance"].transpose(RUNG, *DIMS).values
    common = ds["side_covariance"].transpose(RUNG, *DIMS).values
    n = len(path_ids)
    covariance = np.zeros((n, *variance.shape))
    for i in range(n):
        covariance[i, i] = variance[i]
        for j in range(i):
            if path_ids[i] and path_ids[i] == path_ids[j]:
                covariance[i, j] = covariance[j, i] = (
                    np.minimum(path[i], path[j]) - common[i] - common[j]
                )
    return covariance
