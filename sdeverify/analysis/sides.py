"""The two sides of a weak error as sums of independent ensembles.

A chain is one ensemble, a path extrapolated in dt one (its discretisations share their Brownian
paths), extrapolated SVAG levels are several with weights. Both sides may hold one and the same
ensemble, as where level 1 is compared with an extrapolation that uses it; its two weights are
then added before anything is squared, which is what the covariance asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.bands import block_residuals
from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP, SUBSTEPS
from sdeverify.analysis.datasets.moments import extrapolation_weights
from sdeverify.analysis.datasets.schema import check_path
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]

DIMS = (STEP, OBSERVABLE)
EXTRAPOLATION = "extrapolation"


@dataclass(frozen=True)
class Ensemble:
    """An independent ensemble in a side's mean.

    Attributes:
        weight: in the side's mean.
        variance: of its own mean, `(step, observable)`.
        residuals: contributions of its blocks to the error of its mean, `(block, step,
            observable)`, see `block_residuals`.
        replicas: how many.
        seed: of its mini-batches; None for a path.
    """

    weight: float
    variance: Array
    residuals: Array
    replicas: float
    seed: int | None = None


@dataclass(frozen=True)
class Side:
    """A side's mean `(step, observable)` and its ensembles by identity; none where it is exact."""

    mean: Array
    ensembles: dict[str, Ensemble] = field(default_factory=dict)

    @property
    def variance(self) -> Array:
        """Of the mean."""
        each = [e.weight**2 * e.variance for e in self.ensembles.values()]
        return np.sum(each, axis=0) if each else np.zeros_like(self.mean)


def side_of(ds: xr.Dataset) -> Side:
    """A chain, a path, extrapolated levels or an exact dataset as a side."""
    kind = ds.attrs["kind"]
    name = "extrapolated" if kind == "path" else "mean"
    mean = ds[name].transpose(*DIMS).values
    if kind == "exact":
        return Side(mean)
    if kind == EXTRAPOLATION:
        return Side(mean, _levels(ds))
    values = ds["block_mean"]
    if kind == "path":
        w = xr.DataArray(extrapolation_weights(ds[SUBSTEPS].values), dims=SUBSTEPS)
        values = (values * w).sum(SUBSTEPS)
    error = "extrapolated_standard_error" if kind == "path" else "standard_error"
    own = Ensemble(
        1.0,
        ds[error].transpose(*DIMS).values ** 2,
        block_residuals(ds, values.transpose("block", *DIMS)),
        float(ds.block_count.sum()),
        None if kind == "path" else ds.attrs.get("seed"),
    )
    return Side(mean, {str(ds.attrs.get("fingerprint") or id(ds)): own})


def _levels(ds: xr.Dataset) -> dict[str, Ensemble]:
    """The levels of an extrapolation; exact ones add no uncertainty and are left out."""
    ensembles: dict[str, Ensemble] = {}
    residuals = ds["block_residual"].transpose("level_block", *DIMS).values
    owner = ds["rung_of_block"].values
    for i, rung in enumerate(ds["rung"].values):
        blocks = residuals[owner == rung]
        if len(blocks):
            seed = int(ds["level_seed"][i])
            ensembles[str(ds["level_id"].values[i])] = Ensemble(
                float(ds["weight"][i]),
                ds["level_variance"].transpose("rung", *DIMS).values[i],
                blocks,
                float(ds["level_replicas"][i]),
                seed if seed >= 0 else None,
            )
    return ensembles


def difference(first: Side, second: Side) -> tuple[list[Ensemble], Array]:
    """The ensembles of `first - second`, each once, and the covariance of the two means.

    Raises:
        InvalidInputError: two different ensembles with one seed, which share mini-batches.
    """
    together = dict(first.ensembles)
    covariance = np.zeros_like(first.mean)
    seeds = {e.seed for e in first.ensembles.values() if e.seed is not None}
    for name, e in second.ensembles.items():
        weight = -e.weight
        if name in together:
            covariance = covariance + together[name].weight * e.weight * e.variance
            weight += together[name].weight
        elif e.seed in seeds:
            raise InvalidInputError(
                f"both sides have an ensemble of seed {e.seed}, and not the same one: they share "
                "mini-batches, and the standard error takes them for independent. Use another seed."
            )
        together[name] = Ensemble(weight, e.variance, e.residuals, e.replicas, e.seed)
    noisy = [e for e in together.values() if e.weight != 0 and bool((e.variance > 0).any())]
    return noisy, covariance


def confirm(path: xr.Dataset, reference: xr.Dataset) -> xr.Dataset:
    """The difference of two independent paths' expectations, extrapolated to dt = 0.

    Returns:
        `error` (path - reference) and `standard_error` over (step, observable), and attributes
        `largest_z` (the largest difference in standard errors) and `comparisons`.

    Raises:
        InvalidInputError: one is no path, or their steps or observables differ.
    """
    check_path(path)
    check_path(reference)
    for name in ("step", "observable"):
        if list(path[name].values) != list(reference[name].values):
            raise InvalidInputError(
                f"the two paths have different coordinates '{name}': {list(path[name].values)} "
                f"and {list(reference[name].values)}. Solve both at the same steps and observables."
            )
    error = path["extrapolated"] - reference["extrapolated"]
    standard_error = (
        path["extrapolated_standard_error"] ** 2 + reference["extrapolated_standard_error"] ** 2
    ) ** 0.5
    ds = xr.Dataset({"error": error, "standard_error": standard_error})
    random = standard_error.values > 0
    z = abs(error.values[random]) / standard_error.values[random]
    return ds.assign_attrs(
        kind="confirmation",
        largest_z=float(z.max()) if z.size else 0.0,
        comparisons=int(random.sum()),
        path_replicas=int(path.attrs["replicas"]),
        reference_replicas=int(reference.attrs["replicas"]),
        subsample=int(path.attrs.get("subsample", 0)),
    )
