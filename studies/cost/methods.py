"""The methods by which an SDE expectation is found, their bias and their variance for a cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ensembles import Run, Setting, level_run, path_run

from sdeverify.analysis.allocation import best_allocation
from sdeverify.analysis.extrapolation import level_weights

Array = np.ndarray[Any, Any]

LEVELS = (1, 2, 4, 16)
COARSE, PAIR = (1, 2), (2, 4)
REFERENCE = (1, 2, 4, 8)
BEST = REFERENCE[1:]


@dataclass(frozen=True)
class Method:
    """What a method costs and how far it is off, in spreads.

    A spread is the standard deviation of an observable between paths of the SDE at the horizon.

    Attributes:
        name: for the table.
        product: variance of the mean times cost in mini-batch gradients, `(observable,)`.
        bias, bias_error: `(observable,)`, and its standard error.
        seconds: for one mini-batch gradient.
    """

    name: str
    product: Array
    bias: Array
    bias_error: Array
    seconds: float

    @property
    def size(self) -> float:
        """The root mean square bias over the observables, what noise adds to it taken out."""
        return math.sqrt(max(0.0, float(np.mean(self.bias**2 - self.bias_error**2))))

    @property
    def limits(self) -> tuple[float, float]:
        """About 95%, from the mean square: each observable's error is normal."""
        square = float(np.mean(self.bias**2 - self.bias_error**2))
        spread = float(np.mean(2 * self.bias_error**4 + 4 * self.bias**2 * self.bias_error**2))
        # Observables of one ensemble are correlated: taken for wholly so, which is cautious.
        half = 2 * math.sqrt(spread)
        return math.sqrt(max(0.0, square - half)), math.sqrt(max(0.0, square + half))

    @property
    def resolved(self) -> float:
        """The size of the bias where it is told from 0, else 0: what the bias is at least."""
        return self.size if self.limits[0] > 0 else 0.0

    def error(self, cost: Array, bias: float | None = None) -> Array:
        """The root of bias^2 + variance, root mean square over the observables."""
        b = self.resolved if bias is None else bias
        return np.sqrt(b**2 + float(np.mean(self.product)) / cost)

    def cost_for(self, error: float) -> float:
        """Mini-batch gradients until the error is reached; infinite below the bias."""
        left = error**2 - self.resolved**2
        return float(np.mean(self.product)) / left if left > 0 else math.inf


@dataclass(frozen=True)
class Sizes:
    """Replicas of the runs."""

    level: int
    finest_level: int
    path: int
    coarse_reference: int
    fine_reference: int


@dataclass(frozen=True)
class Ensembles:
    """All runs of a setting."""

    levels: Mapping[int, Run]
    paths: Mapping[str, tuple[Run, tuple[int, int]]]
    reference: tuple[Run, Run]

    @property
    def spread(self) -> Array:
        """The observables' standard deviations between paths of the SDE."""
        return np.asarray(self.reference[0].extrapolated(*COARSE).std(0, ddof=1))


def measured(setting: Setting, sizes: Sizes, done: Any) -> Ensembles:
    """Runs everything; `done` is called with each run's name."""
    seed = iter(range(1, 100))
    b = setting.batch_size
    levels = {}
    for level in LEVELS:
        replicas = sizes.finest_level if level == LEVELS[-1] else sizes.level
        levels[level] = level_run(setting, level, replicas, next(seed))
        done(f"level {level}")
    coarse = path_run(setting, COARSE, sizes.coarse_reference, next(seed), subsample=0)
    done("reference, coarse")
    common = next(seed)
    fine = path_run(setting, REFERENCE, sizes.fine_reference, common, subsample=0)
    done("reference, fine")
    forms: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
        subset_name(2 * b, b, PAIR): (PAIR, {"subsample": 2 * b}),
        subset_name(2 * b, b, COARSE): (COARSE, {"subsample": 2 * b}),
    }
    if b >= 4:
        forms |= {subset_name(b, b, pair): (pair, {"subsample": b}) for pair in (PAIR, COARSE)}
    paths: dict[str, tuple[Run, tuple[int, int]]] = {}
    for name, (substeps, form) in forms.items():
        paths[name] = path_run(setting, substeps, sizes.path, next(seed), **form), substeps
        done(name)
    if setting.sde.uses_moments:
        paths[ONE_GRADIENT] = (
            path_run(setting, BEST, sizes.fine_reference, common, one_gradient=True),
            PAIR,
        )
        done(ONE_GRADIENT)
    return Ensembles(levels, paths, (coarse, fine))


ONE_GRADIENT = "dt 1/2, 1/4, one gradient"


def subset_name(n: int, batch_size: int, substeps: tuple[int, int]) -> str:
    """For the table and the figure."""
    return f"{two_dt(substeps)}, n = {'2B' if n == 2 * batch_size else 'B'}"


def full_name(substeps: tuple[int, int]) -> str:
    """All samples in each step."""
    return f"{two_dt(substeps)}, all samples"


def two_dt(substeps: tuple[int, int]) -> str:
    """The substeps in words."""
    return "dt {}, {}".format(*(f"1/{s}" if s > 1 else "1" for s in substeps))


def methods(setting: Setting, runs: Ensembles) -> list[Method]:
    """All methods, with biases against the reference run."""
    coarse, fine = runs.reference
    spread = runs.spread
    # E at dt = 0: many coarse paths, and what they are off by, from a few fine ones (Giles 2008).
    correction = fine.extrapolated(*BEST) - fine.extrapolated(*COARSE)
    value = coarse.extrapolated(*COARSE).mean(0) + correction.mean(0)
    variance = _variance(coarse.extrapolated(*COARSE)) + _variance(correction)

    def against(mean: Array, own_variance: Array) -> tuple[Array, Array]:
        return (mean - value) / spread, np.sqrt(own_variance + variance) / spread

    found = [
        *(_alone(runs.levels, level, spread, against) for level in (4, 16)),
        *(_together(runs.levels, levels, setting, spread, against) for levels in (BOTH, ALL)),
    ]
    for pair, run in ((PAIR, fine), (COARSE, coarse)):
        off = _paired(fine.extrapolated(*pair), fine, spread)
        found.append(_path(full_name(pair), run, pair, spread, off))
    for name, (run, substeps) in runs.paths.items():
        values = run.extrapolated(*substeps)
        one = name == ONE_GRADIENT
        off = _paired(values, fine, spread) if one else against(values.mean(0), _variance(values))
        found.append(_path(name, run, substeps, spread, off))
    return found


BOTH, ALL = (1, 2), (1, 2, 4)


def _variance(values: Array) -> Array:
    return np.asarray(values.var(0, ddof=1) / len(values))


def _paired(values: Array, fine: Run, spread: Array) -> tuple[Array, Array]:
    """The bias on common Brownian paths, where the difference has little variance."""
    difference = values - fine.extrapolated(*BEST)
    return difference.mean(0) / spread, np.sqrt(_variance(difference)) / spread


def _alone(levels: Mapping[int, Run], level: int, spread: Array, against: Any) -> Method:
    run = levels[level]
    bias, error = against(run.values.mean(0), _variance(run.values))
    product = run.values.var(0, ddof=1) / spread**2 * run.cost
    return Method(f"level {level} alone", product, bias, error, run.seconds / run.cost)


def _together(
    levels: Mapping[int, Run], chosen: Sequence[int], setting: Setting, spread: Array, against: Any
) -> Method:
    runs = [levels[level] for level in chosen]
    power = setting.optimizer.refinement_power
    w = level_weights([level**power for level in chosen])
    mean = sum(wi * r.values.mean(0) for wi, r in zip(w, runs, strict=True))
    variance = sum(wi**2 * _variance(r.values) for wi, r in zip(w, runs, strict=True))
    bias, error = against(mean, variance)
    costs = np.array([r.cost for r in runs])
    deviations = np.stack([r.values.std(0, ddof=1) / spread for r in runs])
    # One split for all observables, by their root mean square deviation.
    typical = np.sqrt(np.mean(deviations**2, axis=1))
    split = best_allocation(w, costs, typical, budget=1e7 * costs.sum())
    n = np.array(split.replicas, float)
    product = np.einsum("l,lo->o", w**2 / n, deviations**2) * split.cost
    seconds = float(np.sum(n * [r.seconds for r in runs]) / split.cost)
    name = "levels " + ", ".join(map(str, chosen))
    return Method(name, product, bias, error, seconds)


def _path(
    name: str,
    run: Run,
    substeps: tuple[int, int],
    spread: Array,
    off: tuple[Array, Array],
) -> Method:
    """A path's cost is that of the two substeps alone where the run had more."""
    product = run.extrapolated(*substeps).var(0, ddof=1) / spread**2
    share = sum(substeps) / sum(run.substeps) if run.substeps != substeps else 1.0
    return Method(name, product * run.cost * share, *off, run.seconds / run.cost)
