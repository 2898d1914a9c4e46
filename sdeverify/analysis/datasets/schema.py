"""The datasets that everything exchanges: ensembles of a chain or a path as block moments.

An ensemble is stored as its replicas' moments per block (count, mean, sum of squares about the
mean), which merge exactly; means, standard errors and the extrapolation in dt derive from them.

- a chain has dims `(block, step, observable)`;
- a path has also `substeps` and `substeps_bis` (Euler-Maruyama steps in one level-1 step,
  ascending, all on one Brownian path): comoments are cross products between the discretisations;
- paths and forks that are coupled have `channel` and `channel_bis` in the place of these;
- an exact result has `mean`, `standard_error` 0 and the numerical error `bound`, over
  `(step, observable)`.

`step` counts level-1 optimizer steps from the beginning of training, `time` is the SDE's clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdeverify.analysis.datasets.axes import (
    BLOCK,
    CHAIN_DIMS,
    CHANNEL,
    CHANNEL_BIS,
    OBSERVABLE,
    PATH_COMOMENT_DIMS,
    PATH_DIMS,
    REPLICA,
    STEP,
    SUBSTEPS,
    SUBSTEPS_BIS,
    blocked,
    with_axes,
    with_replicas,
)
from sdeverify.analysis.datasets.moments import (
    extrapolation_weights,
    pool_blocks,
    variance_of_the_mean,
)
from sdeverify.errors import InvalidInputError

Attrs = Mapping[str, Any]


def chain_dataset(
    *,
    block_count: ArrayLike,
    block_mean: ArrayLike,
    block_comoment: ArrayLike,
    step: ArrayLike,
    time: ArrayLike,
    observables: Sequence[str],
    blocks: ArrayLike,
    attrs: Attrs,
    replicas: ArrayLike | None = None,
) -> xr.Dataset:
    """The ensemble of a discrete chain from its blocks' moments.

    Args:
        block_count: replicas in each block, `(block,)`.
        block_mean: `(block, step, observable)`.
        block_comoment: sum over a block's replicas of (x - block mean)^2, same shape.
        step, time: level-1 steps and the SDE's clock, `(step,)`.
        blocks: the blocks' numbers; the dataset is sorted by them.
        attrs: provenance; strings, integers and floats only. `kind` is set here.
        replicas: all values, `(replica, step, observable)`, in the order of `blocks`.

    Raises:
        InvalidInputError: shapes, counts or coordinates do not fit.
    """
    ds = blocked(CHAIN_DIMS, CHAIN_DIMS, block_count, block_mean, block_comoment, blocks)
    ds = with_axes(ds, step, time, observables)
    if replicas is not None:
        ds = with_replicas(ds, replicas, (REPLICA, STEP, OBSERVABLE), block_count, blocks)
    return finish_chain(ds.assign_attrs({**plain_attrs(attrs), "kind": "chain"}))


def path_dataset(
    *,
    block_count: ArrayLike,
    block_mean: ArrayLike,
    block_comoment: ArrayLike,
    step: ArrayLike,
    time: ArrayLike,
    observables: Sequence[str],
    blocks: ArrayLike,
    substeps: Sequence[int] | NDArray[Any],
    attrs: Attrs,
    replicas: ArrayLike | None = None,
) -> xr.Dataset:
    """The ensemble of an integrated SDE from its blocks' moments; arguments as `chain_dataset`.

    Args:
        block_mean: `(block, substeps, step, observable)`.
        block_comoment: `(block, substeps, substeps_bis, step, observable)`, the sum over a block's
            replicas of (x_a - mean_a)(x_b - mean_b).
        substeps: Euler-Maruyama steps in one level-1 step, ascending, e.g. `[2, 4]`. With a single
            value nothing can be extrapolated: `extrapolated` is the value itself, and the
            attribute `integrator_bias_measured` is 0.
        replicas: all values, `(replica, substeps, step, observable)`.
    """
    s = np.asarray(substeps)
    if s.ndim != 1 or s.size == 0 or np.any(s < 1) or np.any(np.diff(s) <= 0) or np.any(s % 1):
        raise InvalidInputError(
            f"substeps are positive integers in ascending order, e.g. (2, 4); got {substeps!r}"
        )
    ds = blocked(PATH_DIMS, PATH_COMOMENT_DIMS, block_count, block_mean, block_comoment, blocks)
    if ds.sizes[SUBSTEPS] != s.size:
        raise InvalidInputError(
            f"block_mean has {ds.sizes[SUBSTEPS]} entries along 'substeps'; substeps are {s}"
        )
    ds = ds.assign_coords({SUBSTEPS: s.astype(np.int64), SUBSTEPS_BIS: s.astype(np.int64)})
    ds = with_axes(ds, step, time, observables)
    if replicas is not None:
        dims = (REPLICA, SUBSTEPS, STEP, OBSERVABLE)
        ds = with_replicas(ds, replicas, dims, block_count, blocks)
    return finish_path(ds.assign_attrs({**plain_attrs(attrs), "kind": "path"}))


def channel_dataset(
    *,
    block_count: ArrayLike,
    block_mean: ArrayLike,
    block_comoment: ArrayLike,
    step: ArrayLike,
    time: ArrayLike,
    observables: Sequence[str],
    blocks: ArrayLike,
    channels: Sequence[str],
    attrs: Attrs,
    replicas: ArrayLike | None = None,
) -> xr.Dataset:
    """An ensemble whose replicas hold several quantities side by side; arguments as `path_dataset`.

    Args:
        block_mean: `(block, channel, step, observable)`.
        block_comoment: `(block, channel, channel_bis, step, observable)`.
        channels: what each of them is.
        replicas: all values, `(replica, channel, step, observable)`.
    """
    dims = (BLOCK, CHANNEL, STEP, OBSERVABLE)
    crossed = (BLOCK, CHANNEL, CHANNEL_BIS, STEP, OBSERVABLE)
    ds = blocked(dims, crossed, block_count, block_mean, block_comoment, blocks)
    names = np.asarray(channels, dtype=object)
    ds = with_axes(ds.assign_coords({CHANNEL: names, CHANNEL_BIS: names}), step, time, observables)
    if replicas is not None:
        ds = with_replicas(ds, replicas, (REPLICA, *dims[1:]), block_count, blocks)
    ds = ds.assign_attrs({**plain_attrs(attrs), "kind": "channels"})
    return ds.assign_attrs(fingerprint=fingerprint(ds))


def exact_dataset(
    *,
    mean: ArrayLike,
    bound: ArrayLike,
    step: ArrayLike,
    time: ArrayLike,
    observables: Sequence[str],
    attrs: Attrs,
) -> xr.Dataset:
    """Expectations without sampling: `mean` and its numerical error `bound`, (step, observable)."""
    dims = (STEP, OBSERVABLE)
    value = np.asarray(mean, dtype=np.float64)
    ds = xr.Dataset(
        {
            "mean": (dims, value),
            "standard_error": (dims, np.zeros_like(value)),
            "bound": (dims, np.broadcast_to(np.asarray(bound, np.float64), value.shape).copy()),
        }
    )
    ds = with_axes(ds, step, time, observables)
    ds = ds.assign_attrs({**plain_attrs(attrs), "kind": "exact"})
    return ds.assign_attrs(fingerprint=fingerprint(ds))


def finish_chain(ds: xr.Dataset) -> xr.Dataset:
    """`ds` with `mean` and `standard_error` (over all replicas) derived from the block moments."""
    n, mean, comoment = pool_blocks(ds.block_count, ds.block_mean, ds.block_comoment)
    dims = (STEP, OBSERVABLE)
    ds = ds.assign(
        mean=(dims, mean), standard_error=(dims, np.sqrt(variance_of_the_mean(comoment, n)))
    )
    return ds.assign_attrs(fingerprint=fingerprint(ds))


def finish_path(ds: xr.Dataset) -> xr.Dataset:
    """`ds` with `mean`, `standard_error` and their extrapolation in dt, from the block moments."""
    n, mean, comoment = pool_blocks(ds.block_count, ds.block_mean, ds.block_comoment)
    covariance = variance_of_the_mean(comoment, n)
    w = extrapolation_weights(np.asarray(ds[SUBSTEPS]))
    variance = np.einsum("a,c,acko->ko", w, w, covariance)
    dims = (STEP, OBSERVABLE)
    ds = ds.assign(
        mean=((SUBSTEPS, *dims), mean),
        standard_error=((SUBSTEPS, *dims), np.sqrt(np.einsum("aako->ako", covariance))),
        extrapolated=(dims, np.tensordot(w, mean, axes=(0, 0))),
        extrapolated_standard_error=(dims, np.sqrt(np.maximum(variance, 0.0))),
    )
    measured = int(ds.sizes[SUBSTEPS] > 1)
    return ds.assign_attrs(fingerprint=fingerprint(ds), integrator_bias_measured=measured)


def fingerprint(ds: xr.Dataset) -> str:
    """SHA-256 of an ensemble's numbers and axes: results with one fingerprint are one result."""
    digest = hashlib.sha256(str(ds.attrs.get("kind", "")).encode())
    digest.update(repr([str(o) for o in ds[OBSERVABLE].values]).encode())
    for name in (
        BLOCK,
        SUBSTEPS,
        STEP,
        "time",
        "block_count",
        "block_mean",
        "block_comoment",
        "mean",
    ):
        if name in ds.variables:
            digest.update(np.ascontiguousarray(ds[name].values, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]


def plain_attrs(attrs: Attrs) -> dict[str, str | int | float]:
    """The attributes as strings, integers and floats; everything else is refused by name."""
    plain: dict[str, str | int | float] = {}
    for key, value in attrs.items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, str | int | float):
            raise InvalidInputError(
                f"attribute '{key}' is a {type(value).__name__}; attributes are strings, "
                "integers or floats. Pass json.dumps(...) of anything else."
            )
        plain[key] = value
    return plain


def check_chain(ds: xr.Dataset) -> None:
    """Refuse what is not a chain's (or an exact) dataset, or holds values that are not finite.

    Raises:
        InvalidInputError: it says what is wrong, where, and what to pass.
    """
    _check(ds, "chain", (STEP, OBSERVABLE), "simulate(...)", (SUBSTEPS,))


def check_path(ds: xr.Dataset) -> None:
    """Refuse what is not a path's (or an exact) dataset, or holds values that are not finite.

    Raises:
        InvalidInputError: it says what is wrong, where, and what to pass.
    """
    _check(ds, "path", (SUBSTEPS, STEP, OBSERVABLE), "solve(...)", ())
    if ds.attrs["kind"] == "path":
        for name in ("extrapolated", "extrapolated_standard_error", "block_count"):
            if name not in ds:
                raise InvalidInputError(
                    f"this path dataset lacks '{name}'; build it with path_dataset"
                )


def _check(
    ds: xr.Dataset, kind: str, dims: tuple[str, ...], source: str, absent: tuple[str, ...]
) -> None:
    actual = getattr(ds, "attrs", {}).get("kind")
    if not isinstance(ds, xr.Dataset) or actual not in (kind, "exact", "extrapolation"):
        raise InvalidInputError(
            f"a {kind} dataset is wanted here; got {type(ds).__name__} of kind {actual!r}. "
            f"Pass the result of {source}."
        )
    expected = dims if actual == kind else (STEP, OBSERVABLE)
    for name in ("mean", "standard_error"):
        if name not in ds or ds[name].dims != expected or any(d in ds.dims for d in absent):
            shape = ds[name].dims if name in ds else "nothing"
            raise InvalidInputError(
                f"'{name}' of a {actual} dataset has dims {expected}; got {shape}"
            )
    if "time" not in ds.coords or STEP not in ds.coords or OBSERVABLE not in ds.coords:
        raise InvalidInputError(f"a {kind} dataset has the coordinates step, time and observable")
    if actual == kind and "block_count" in ds and float(ds.block_count.sum()) < 2:
        raise InvalidInputError(
            f"a {kind} of one replica has no standard error; ask for 2 replicas or more"
        )
    bad = ~np.isfinite(ds["mean"].values) | ~np.isfinite(ds["standard_error"].values)
    if bad.any():
        _, k, o = (int(i[0]) for i in np.nonzero(bad.reshape(-1, *bad.shape[-2:])))
        raise InvalidInputError(
            f"the {kind}'s '{ds[OBSERVABLE].values[o]}' is not finite from step "
            f"{float(ds[STEP][k]):g} on: replicas diverged. Lower the learning rate (chain), "
            "raise substeps (path), or compare fewer steps."
        )
