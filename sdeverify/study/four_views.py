"""Four views of one run: the optimizer, its Gaussian surrogate, SVAG at some levels, the SDE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP
from sdeverify.analysis.weak_error import weak_error
from sdeverify.base.arguments import confidence_level, numbers
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.forecast import check_time
from sdeverify.ensembles.job import Job, run_jobs
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.options import Run, RunOptions
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import Derivation, derive
from sdeverify.optimizers.ladders import svag
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.sde import GradientSDE, same_sde

OPTIMIZER, SURROGATE, EQUATION = "optimizer", "Gaussian surrogate", "SDE"
NON_GAUSSIANITY, DISCRETISATION, TOTAL = "non-Gaussianity", "time discretisation", "total"

_DIMS = (STEP, OBSERVABLE)
_LARGEST = ("max_error", "max_error_low", "max_error_high", "max_step")


def four_views(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    *,
    levels: float | Sequence[float] = (1, 2, 4),
    path_replicas: int | None = None,
    substeps: int | Sequence[int] | None = None,
    subsample: int | None = None,
    sde: type[GradientSDE] | Derivation | None = None,
    sde_options: Mapping[str, Any] | None = None,
    confidence: float = 0.95,
    **options: Unpack[RunOptions],
) -> xr.Dataset:
    """The optimizer, its surrogate, SVAG and the SDE, compared by one metric on one time axis.

    The metric is the difference of expectations of each observable, the axis level-1 steps (and
    SDE time). The surrogate is the optimizer fed with normal noise of the same mean, covariance and
    scale (`oracle.gaussian()`), so that the gap from the optimizer to its SDE is a sum of two:

        E optimizer - E SDE = (E optimizer - E surrogate) + (E surrogate - E SDE),

    *non-Gaussianity* of the gradients and *discretisation* of time. The ensembles are independent,
    so each part's variance is the sum of its two sides', and the surrogate, which stands in both
    with opposite signs, gives them the covariance -var(surrogate mean).

    Args:
        optimizer, oracle: of the run.
        levels: SVAG's, >= 1. Level 1 is the optimizer itself and is not run again; alone for an
            SDE whose constants change with the noise scale.
        path_replicas: of the SDE; None for as many as of each discrete view.
        substeps, subsample: of the SDE, as in `solve`.
        sde, sde_options: another equation than the optimizer's own, as in `derive`.
        confidence: of the intervals of the largest gap over time.
        options: see `RunOptions`; view i takes seed + i, so that no two share random numbers.
        start, steps, observables: as in `simulate`, whole steps.

    Returns:
        - over (view, step, observable): `mean`, `standard_error`, with the coordinates `level` (NaN
          where there is none) and `seed`; the SDE's mean is extrapolated to dt = 0;
        - over (step, observable): `spread`, the standard deviation between runs of the optimizer;
        - over (view, step, observable), the SDE left at 0: `gap` E view - E SDE and
          `gap_standard_error`; over (view, observable): `max_gap` over time with `_low`, `_high`
          (see `weak_error`) and `max_gap_step`;
        - over (part, step, observable), parts "non-Gaussianity", "time discretisation", "total":
          `gap_part` and `gap_part_standard_error`; `part_covariance` (step, observable) of the
          first two;
        - `integrator_residual` (step, observable): what extrapolation in dt may have left in the
          SDE's mean, and so, with the opposite sign, in the discretisation part.

    Raises:
        InvalidInputError: a bad argument, levels below 1 or twice, before any work.
        UnsupportedError: no SDE covers this optimizer or this noise.
        SdeverifyError: a view diverged.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> run = sv.SGD(learning_rate=0.2), oracle, theta0, 4, loss
        >>> views = sv.four_views(*run, levels=2, replicas=64, path_replicas=64)
        >>> views["view"].values.tolist()
        ['optimizer', 'Gaussian surrogate', 'SVAG level 2', 'SDE']
    """
    run = Run.of(options, four_views)
    paths = run if path_replicas is None else run.of_size(path_replicas)
    confidence = confidence_level(confidence)
    equation = derive(optimizer, oracle, sde, **(sde_options or {}))
    runs: dict[str, tuple[float, Optimizer, GradientOracle]] = {
        OPTIMIZER: (1.0, optimizer, oracle),
        SURROGATE: (np.nan, optimizer, oracle.gaussian()),
    }
    for level in _checked_levels(levels):
        if level != 1:
            refined = svag(optimizer, oracle, level)
            _check_keeps_sde(level, equation, derive(*refined, sde, **(sde_options or {})))
            runs[f"SVAG level {level:g}"] = (level, *refined)
    jobs: dict[str, Job] = {}
    for i, (name, (_, stepper, noisy)) in enumerate(runs.items()):
        jobs[name] = chain_job(stepper, noisy, start, steps, observables, run.at(i))
    jobs[EQUATION] = path_job(
        equation,
        start,
        steps,
        observables,
        paths.at(len(runs)),
        substeps=substeps,
        subsample=subsample,
    )
    check_time(jobs, run.time_limit)
    ensembles = run_jobs(jobs, progress=run.progress)
    levels_of_views = [*(level for level, _, _ in runs.values()), np.nan]
    return _assembled(ensembles, levels_of_views, confidence)


def views_table(views: xr.Dataset, step: float | None = None) -> str:
    """The gap optimizer - SDE and its two parts at a step, in Markdown, a row an observable.

    Each entry is a gap with its standard error, in spreads (standard deviations between runs of the
    optimizer at that step); bold where it is more than two standard errors.

    Args:
        views: from `four_views`.
        step: a recorded step; the last one where it is left out.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> run = sv.SGD(learning_rate=0.2), oracle, theta0, 4, loss
        >>> print(sv.views_table(sv.four_views(*run, levels=2, replicas=64, path_replicas=64)))
        | observable | total | non-Gaussianity | time discretisation | SVAG level 2 | left by dt |
        |---|---|---|---|---|---|
        | loss | **-0.47** ± 0.19 | ...
    """
    at = views.isel(step=-1) if step is None else views.sel(step=step)
    svag = [str(name) for name in views["view"].values if str(name).startswith("SVAG")]
    head = ["observable", "total", NON_GAUSSIANITY, DISCRETISATION, *svag, "left by dt"]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in views[OBSERVABLE].values:
        one = at.sel({OBSERVABLE: name})
        spread = float(one["spread"])
        gaps = [
            (float(one["gap_part"].sel(part=p)), float(one["gap_part_standard_error"].sel(part=p)))
            for p in (TOTAL, NON_GAUSSIANITY, DISCRETISATION)
        ]
        gaps += [
            (float(one["gap"].sel(view=v)), float(one["gap_standard_error"].sel(view=v)))
            for v in svag
        ]
        cells = [_in_spreads(value, error, spread) for value, error in gaps]
        left = abs(float(one["integrator_residual"])) / spread if spread > 0 else 0.0
        rows.append("| " + " | ".join([str(name), *cells, f"{left:.2g}"]) + " |")
    return "\n".join(rows)


def _in_spreads(value: float, error: float, spread: float) -> str:
    if not spread > 0:
        return "-"
    mark = "**" if abs(value) > 2 * error else ""
    digits = max(1, 1 - int(np.floor(np.log10(error / spread)))) if error > 0 else 3
    return f"{mark}{value / spread:.{digits}f}{mark} ± {error / spread:.{digits}f}"


def _assembled(
    ensembles: Mapping[str, xr.Dataset], levels: Sequence[float], confidence: float
) -> xr.Dataset:
    path = ensembles[EQUATION]
    chains = {name: ds for name, ds in ensembles.items() if name != EQUATION}
    gaps = {name: weak_error(ds, path, confidence=confidence) for name, ds in chains.items()}
    means = [(ds["mean"], ds["standard_error"]) for ds in chains.values()]
    means.append((path["extrapolated"], path["extrapolated_standard_error"]))
    view = (("view", *_DIMS), ("view", OBSERVABLE))
    fields: dict[str, Any] = {
        "mean": (view[0], np.stack([mean.transpose(*_DIMS).values for mean, _ in means])),
        "standard_error": (view[0], np.stack([e.transpose(*_DIMS).values for _, e in means])),
    }
    for dims, names in ((view[0], ("error", "standard_error")), (view[1], _LARGEST)):
        for name in names:
            each = [gap[name].values for gap in gaps.values()]
            value = np.stack([*each, np.zeros_like(each[0])])
            fields[_renamed(name)] = (dims, value)
    fields |= _parts(chains, gaps)
    ours = chains[OPTIMIZER]
    runs = float(ours["block_count"].sum())
    fields["spread"] = (_DIMS, ours["standard_error"].transpose(*_DIMS).values * runs**0.5)
    fields["integrator_residual"] = gaps[OPTIMIZER]["integrator_residual"].variable
    coords = {
        "view": np.array(list(ensembles), dtype=object),
        "level": ("view", np.asarray(levels)),
        "seed": ("view", [int(ds.attrs["seed"]) for ds in ensembles.values()]),
        "part": np.array([NON_GAUSSIANITY, DISCRETISATION, TOTAL], dtype=object),
        **{name: path[name] for name in (STEP, "time", OBSERVABLE)},
    }
    attrs = {
        **{k: v for k, v in ours.attrs.items() if k != "fingerprint"},
        "kind": "views",
        "model": path.attrs["model"],
        "path_replicas": path.attrs["replicas"],
        "subsample": path.attrs["subsample"],
        "substeps": json.dumps([int(s) for s in path["substeps"].values]),
        "confidence": confidence,
    }
    return xr.Dataset(fields, coords=coords, attrs=attrs)


def _parts(chains: Mapping[str, xr.Dataset], gaps: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """The gap optimizer - SDE as the sum of its two parts, with the parts' covariance."""
    ours, surrogate = (chains[name] for name in (OPTIMIZER, SURROGATE))
    shape = (ours["mean"] - surrogate["mean"]).transpose(*_DIMS).values
    variance = [ds["standard_error"].transpose(*_DIMS).values ** 2 for ds in (ours, surrogate)]
    values = [shape, gaps[SURROGATE]["error"].values, gaps[OPTIMIZER]["error"].values]
    errors = [np.sqrt(sum(variance)), *(gaps[n]["standard_error"].values for n in _ENDS)]
    dims = ("part", *_DIMS)
    return {
        "gap_part": (dims, np.stack(values)),
        "gap_part_standard_error": (dims, np.stack(errors)),
        "part_covariance": (_DIMS, -variance[1]),
    }


_ENDS = (SURROGATE, OPTIMIZER)


def _renamed(name: str) -> str:
    """weak_error's names in terms of gaps."""
    if name == "max_step":
        return "max_gap_step"
    return "gap_standard_error" if name == "standard_error" else name.replace("error", "gap")


def _check_keeps_sde(level: float, ours: GradientSDE, theirs: GradientSDE) -> None:
    if not same_sde(ours, theirs):
        raise InvalidInputError(
            f"SVAG level {level:g} has another {ours.description.name} than the optimizer, since "
            "its constants change with the noise (1/sigma^2 of a kept signal does), so its gap to "
            "this one says nothing. Use levels=(1,)."
        )


def _checked_levels(levels: float | Sequence[float]) -> list[float]:
    listed = numbers(levels, "levels")
    if not all(1 <= level < np.inf for level in listed) or len(set(listed)) < len(listed):
        raise InvalidInputError(
            f"SVAG's levels are different real numbers >= 1 (1 is the optimizer); got {listed}."
        )
    return sorted(listed)
