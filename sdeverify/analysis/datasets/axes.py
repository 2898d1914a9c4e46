"""The names of the datasets' axes, and putting arrays on them with checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdeverify.errors import InvalidInputError

BLOCK, STEP, OBSERVABLE = "block", "step", "observable"
SUBSTEPS, SUBSTEPS_BIS, REPLICA = "substeps", "substeps_bis", "replica"
CHANNEL, CHANNEL_BIS = "channel", "channel_bis"
CHAIN_DIMS = (BLOCK, STEP, OBSERVABLE)
PATH_DIMS = (BLOCK, SUBSTEPS, STEP, OBSERVABLE)
PATH_COMOMENT_DIMS = (BLOCK, SUBSTEPS, SUBSTEPS_BIS, STEP, OBSERVABLE)

Array = NDArray[Any]


def blocked(
    mean_dims: tuple[str, ...],
    comoment_dims: tuple[str, ...],
    count: ArrayLike,
    mean: ArrayLike,
    comoment: ArrayLike,
    blocks: ArrayLike,
) -> xr.Dataset:
    """A dataset of block moments, sorted by block."""
    n, m, c = (np.asarray(v, dtype=np.float64) for v in (count, mean, comoment))
    for name, array, dims in (("block_mean", m, mean_dims), ("block_comoment", c, comoment_dims)):
        if array.ndim != len(dims):
            raise InvalidInputError(
                f"{name} has the axes {dims}; got an array of shape {array.shape}"
            )
    try:
        ds = xr.Dataset(
            {
                "block_count": (BLOCK, n),
                "block_mean": (mean_dims, m),
                "block_comoment": (comoment_dims, c),
            },
            coords={BLOCK: np.asarray(blocks).astype(np.int64)},
        )
    except ValueError as error:
        raise InvalidInputError(f"the blocks' moments do not fit together: {error}") from error
    if n.size == 0 or np.any(n < 1) or np.any(n % 1):
        raise InvalidInputError(
            f"block_count holds positive integers, one a block; got {n.tolist()}"
        )
    return sorted_blocks(ds)


def sorted_blocks(ds: xr.Dataset) -> xr.Dataset:
    """`ds` in ascending order of its blocks, none of which may come twice."""
    numbers, counts = np.unique(ds[BLOCK], return_counts=True)
    if np.any(counts > 1):
        twice = int(numbers[counts > 1][0])
        raise InvalidInputError(f"block {twice} comes more than once; a block is one piece of work")
    return ds.sortby(BLOCK)


def with_axes(
    ds: xr.Dataset, step: ArrayLike, time: ArrayLike, observables: Sequence[str]
) -> xr.Dataset:
    """`ds` with its step, time and observable coordinates, checked against its sizes."""
    names = np.array([str(o) for o in observables], dtype=object)
    axes = {STEP: np.asarray(step, np.float64), OBSERVABLE: names}
    clock = np.asarray(time, np.float64)
    for dim, values in (*axes.items(), (STEP, clock)):
        if values.shape != (ds.sizes[dim],):
            raise InvalidInputError(
                f"the moments have {ds.sizes[dim]} entries along '{dim}', its coordinate has shape "
                f"{values.shape}"
            )
    if len(set(names)) != len(names):
        raise InvalidInputError(f"observables have different names; got {names.tolist()}")
    if np.any(np.diff(axes[STEP]) <= 0):
        raise InvalidInputError(f"steps are ascending and differ; got {axes[STEP].tolist()}")
    return ds.assign_coords({**axes, "time": (STEP, clock)})


def with_replicas(
    ds: xr.Dataset,
    replicas: ArrayLike,
    dims: tuple[str, ...],
    block_count: ArrayLike,
    blocks: ArrayLike,
) -> xr.Dataset:
    """`ds` with all replicas' values, put into the order of the sorted blocks."""
    values = np.asarray(replicas, dtype=np.float64)
    expected = (int(ds.block_count.sum()), *(ds.sizes[d] for d in dims[1:]))
    if values.shape != expected:
        raise InvalidInputError(f"replicas have shape {expected} = {dims}; got {values.shape}")
    owner = np.repeat(np.asarray(blocks), np.asarray(block_count).astype(np.int64))
    return ds.assign(replicas=(dims, values[np.argsort(owner, kind="stable")]))
