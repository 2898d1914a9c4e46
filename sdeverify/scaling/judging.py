"""What runs with batch kappa B say of a scaling rule: distances, judgements, closeness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP
from sdeverify.scaling.reach import chain_distance, chain_log_ratio, crossing, judge, reach

Yardstick = Literal["larger", "spread", "change"]

_RUN, _BEST = ("rule", "kappa"), ("rule", OBSERVABLE)
_LARGEST = ("max_distance", "max_distance_low", "max_distance_high")


def scaling_dataset(
    reference: xr.Dataset,
    scaled: Sequence[Sequence[xr.Dataset]],
    rules: Sequence[str],
    kappas: Sequence[float],
    bounds: Mapping[str, float],
    tolerance: float = 0.2,
    yardstick: Yardstick = "larger",
    confidence: float = 0.95,
) -> xr.Dataset:
    """Distances to the run, what is allowed, how far each rule goes, and closeness.

    Args:
        reference: the run, kappa = 1.
        scaled: its scaled runs, a row for each rule and a column for each kappa.
        bounds: the observables that are to stay within a factor of the run's, and that factor; see
            `close_factors`; empty for none.
        tolerance, yardstick, confidence: as in `scaling_experiment`, whose variables these are.
    """
    bounded = [[ds if finite(ds) else None for ds in row] for row in scaled]
    ds = _measured(reference, bounded, rules, kappas, confidence)
    ds = ds.merge(_judged(ds, tolerance, yardstick))
    return ds.merge(close_factors(reference, bounded, kappas, bounds, confidence)) if bounds else ds


def finite(ds: xr.Dataset) -> bool:
    """Whether all moments are; values whose squares overflow count as diverged."""
    return bool(np.isfinite(ds["mean"]).all() and np.isfinite(ds["standard_error"]).all())


def close_factors(
    reference: xr.Dataset,
    scaled: Sequence[Sequence[xr.Dataset | None]],
    kappas: Sequence[float],
    bounds: Mapping[str, float],
    confidence: float = 0.95,
) -> xr.Dataset:
    """The batch factor up to which observables stay within a factor of the run's.

    Each observable's largest |log(E scaled/E run)| over the compared steps, over the logarithm of
    its bound, the largest of them over the observables; where it first exceeds 1, by interpolation
    in log kappa. The bands cover all steps and observables of one scaled run at once.

    Returns:
        Over (rule): `close_factor`, and `_low`, `_high`, where the upper and the lower end of the
        band cross; infinite where none is seen to. Over (rule, kappa): `departure` with its ends.
    """
    names = list(bounds)
    logs = np.log([bounds[name] for name in names])
    level = 1 - (1 - confidence) / len(names)
    ends = np.full((3, len(scaled), len(kappas)), np.inf)
    near = reference.sel({OBSERVABLE: names})
    for r, row in enumerate(scaled):
        for k, ds in enumerate(row):
            if ds is not None:
                far = chain_log_ratio(ds.sel({OBSERVABLE: names}), near, level)
                ends[:, r, k] = [float((far[name].values / logs).max()) for name in _LARGEST]
    factors = [[crossing(kappas, row) for row in part] for part in ends]
    value, high, low = (("rule", np.array(part)) for part in factors)
    fields: dict[str, Any] = {
        "close_factor": value,
        "close_factor_low": low,
        "close_factor_high": high,
        **{
            f"departure{end}": (_RUN, part)
            for end, part in zip(("", "_low", "_high"), ends, strict=True)
        },
    }
    return xr.Dataset(fields)


def _measured(
    reference: xr.Dataset,
    scaled: Sequence[Sequence[xr.Dataset | None]],
    rules: Sequence[str],
    kappas: Sequence[float],
    confidence: float,
) -> xr.Dataset:
    """Means and distances, a row for each rule and a column for each kappa."""

    def part(ds: xr.Dataset | None) -> xr.Dataset:
        if ds is None:
            return _nowhere(reference)
        away = chain_distance(ds, reference, confidence)
        return away.assign(mean=ds["mean"].reset_coords(drop=True))

    rows = [
        xr.concat([part(ds) for ds in row], "kappa", coords="minimal", compat="override")
        for row in scaled
    ]
    ds = xr.concat(rows, "rule", coords="minimal", compat="override", data_vars="all")
    n = float(reference.block_count.sum())
    return ds.assign(
        reference_mean=reference["mean"],
        reference_standard_error=reference["standard_error"],
        reference_spread=reference["standard_error"] * math.sqrt(n),
    ).assign_coords(rule=np.array(rules, dtype=object), kappa=np.asarray(kappas, dtype=float))


def _nowhere(reference: xr.Dataset) -> xr.Dataset:
    """The distance of a run that diverged: infinite."""
    gone = xr.full_like(reference["mean"].reset_coords(drop=True), np.nan)
    far = xr.full_like(gone.isel({STEP: 0}, drop=True), np.inf)
    return xr.Dataset(
        {
            **dict.fromkeys(("distance", "standard_error", "mean"), gone),
            **dict.fromkeys(_LARGEST, far),
        }
    )


def _judged(ds: xr.Dataset, tolerance: float, yardstick: Yardstick) -> xr.Dataset:
    """What is allowed, each run's judgement, and how far each rule goes."""
    spread = ds["reference_spread"].max(STEP)
    change = abs(ds["reference_mean"] - ds["reference_mean"].isel({STEP: 0})).max(STEP)
    units = {"spread": spread, "change": change, "larger": spread.where(spread > change, change)}
    allowed = tolerance * units[yardstick]
    dims = (*_RUN, OBSERVABLE)
    largest, low, high = (ds[name].transpose(*dims).values for name in _LARGEST)
    judged, holds = judge(low, high, allowed.values), largest <= allowed.values
    kappas = ds["kappa"].values.tolist()
    every = [
        [
            reach(kappas, holds[r, :, o].tolist(), judged[r, :, o].tolist())
            for o in range(ds.sizes[OBSERVABLE])
        ]
        for r in range(len(judged))
    ]
    fields: dict[str, Any] = {"allowed": allowed, "judgement": (dims, judged)}
    for name, part in (("", "value"), ("_low", "low"), ("_high", "high"), ("_status", "status")):
        values = [[getattr(estimate, part) for estimate in row] for row in every]
        kind: Any = object if part == "status" else float
        fields[f"how_far{name}"] = (_BEST, np.array(values, dtype=kind))
    return xr.Dataset(fields)
