"""Generalised least squares of signed errors to `a s^p (1 + b s^r)`.

For a given p the coefficients are projected out and chi-squared is profiled over p: on a grid over
the whole search range, then refined. The 95% interval is where the profile is within 3.84 of its
minimum; where that set is not connected, its hull. Everything works on N independent fits at once.

The second term, beside the first at the coarsest rung, is taken to be about as large as errors
have it that are worth a ladder: normal, with the standard deviation `CURVATURE`, which enters
chi-squared as one datum more. A pure power would be sure of an order that a curvature which nobody
can see has shifted, and two free terms of nothing; so the finest rungs weigh more, and the interval
shrinks with data throughout. Without this ("free") the two terms are linear but for p.

The second term's power is `p + r`, r = 1 unless told otherwise: weak errors expand in integer
powers of `time_per_step`, and a wrong SDE's `c0 + c1 s` is then the member p = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]

SEARCH_RANGE = (-1.0, 6.0)
GRID = np.linspace(*SEARCH_RANGE, 281)
INTERVAL_DROP = float(stats.chi2.ppf(0.95, 1))
CURVATURE = 0.5
"""The plausible size of the second term over the first at the coarsest rung: one in two."""
CURVATURES = np.linspace(-2.0, 2.0, 33)
_FITS_AT_ONCE = 256


@dataclass(frozen=True)
class Whitened:
    """N sets of errors on one ladder of R steps, times the inverse root of their covariance.

    Attributes:
        step: `(rung,)`, relative to the coarsest.
        error: whitened signed errors, `(fit, rung)`.
        root: the whitening matrices, `(fit, rung, rung)`.
        spacing: r, the power between the first and the second term.
    """

    step: Array
    error: Array
    root: Array
    spacing: float

    @property
    def zero(self) -> Array:
        """Chi-squared of no error at all, `(fit,)`."""
        return np.asarray(np.sum(self.error**2, axis=-1))

    def columns(self, power: Array) -> Array:
        """Whitened `s^power` for `(fit, trial)` powers: `(fit, trial, rung)`."""
        raw = np.exp(power[..., None] * np.log(self.step))
        return np.asarray(np.matmul(raw, np.swapaxes(self.root, -1, -2)))

    def project(self, p: Array, terms: int) -> tuple[Array, Array, Array]:
        """Chi-squared and the two coefficients at trial orders p, `(fit, trial)` each."""
        y = self.error[:, None, :]
        f = self.columns(p)
        ff, fy = np.sum(f * f, -1), np.sum(f * y, -1)
        first, second = fy / ff, np.zeros_like(ff)
        chi2 = np.sum(y * y, -1) - fy * first
        if terms == 2:
            g = self.columns(p + self.spacing)
            fg = np.sum(f * g, -1) / ff
            g = g - fg[..., None] * f
            gg = np.maximum(np.sum(g * g, -1), 1e-300)
            second = np.sum(g * y, -1) / gg
            first = first - second * fg
            chi2 = chi2 - second**2 * gg
        return np.maximum(chi2, 0.0), first, second

    def bent(self, p: Array) -> tuple[Array, Array, Array]:
        """As `project` with two terms of a plausible curvature, which is the ratio of the two."""
        y = self.error[:, None, :]
        f, g = self.columns(p), self.columns(p + self.spacing)
        ff, fg, gg, fy, gy = (
            np.sum(u * v, -1) for u, v in ((f, f), (f, g), (g, g), (f, y), (g, y))
        )
        yy = np.sum(y * y, -1)

        def first(b: Array) -> Array:
            return np.asarray((fy + b * gy) / (ff + 2 * b * fg + b**2 * gg))

        def chi2(b: Array) -> Array:
            return np.asarray(yy - (fy + b * gy) * first(b) + (b / CURVATURE) ** 2)

        with np.errstate(divide="ignore", invalid="ignore"):
            free = (ff * gy - fg * fy) / (gg * fy - fg * gy)
        best = np.clip(np.nan_to_num(free), CURVATURES[0], CURVATURES[-1])
        least = chi2(best)
        for trial in CURVATURES:
            here = chi2(np.full_like(fy, trial))
            best, least = np.where(here < least, trial, best), np.minimum(here, least)
        width = CURVATURES[1] - CURVATURES[0]
        for _ in range(6):
            left, right = chi2(best - width), chi2(best + width)
            bend = left + right - 2 * least
            move = 0.5 * width * (left - right) / np.where(bend > 0, bend, np.inf)
            there = best + np.clip(move, -width, width)
            here = chi2(there)
            best, least = np.where(here < least, there, best), np.minimum(here, least)
            width /= 4
        return np.maximum(least, 0.0), first(best), best * first(best)


def whiten(step: Array, error: Array, covariance: Array, spacing: float) -> tuple[Whitened, Array]:
    """Errors `(fit, rung)` with covariances `(fit, rung, rung)`, and which of them can be fitted.

    A fit whose covariance is singular or not finite is marked False and gets a unit covariance.
    """
    sd = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0.0))
    usable = np.all(np.isfinite(error), -1) & np.all(np.isfinite(covariance), (-1, -2))
    usable &= np.all(sd > 0, -1)
    eye = np.eye(len(step))
    safe_sd = np.where(usable[:, None], sd, 1.0)
    covariance = np.where(usable[:, None, None], covariance, eye)
    correlation = covariance / (safe_sd[:, :, None] * safe_sd[:, None, :])
    usable &= np.linalg.eigvalsh(correlation)[:, 0] > 1e-10
    correlation = np.where(usable[:, None, None], correlation, eye)
    root = np.linalg.inv(np.linalg.cholesky(correlation)) / safe_sd[:, None, :]
    clean = np.where(usable[:, None], error, 0.0)
    whitened = np.einsum("nij,nj->ni", root, clean)
    return Whitened(step / step[0], whitened, root, spacing), usable


@dataclass(frozen=True)
class Fits:
    """N fits of one model, `(fit,)` each; coefficients are for steps relative to the coarsest.

    `below` and `above` are the rises of chi-squared over its minimum that it takes to bring the
    order down to `claimed - 1/2`, or up to `claimed` (`half_above`: up to `claimed - 1/2`).
    """

    order: Array
    low: Array
    high: Array
    first: Array
    second: Array
    chi2: Array
    degrees_of_freedom: Array
    below: Array
    above: Array
    half_above: Array

    @property
    def p_value(self) -> Array:
        """Of the model's chi-squared; NaN where no degree of freedom is left."""
        dof = self.degrees_of_freedom
        return np.where(dof > 0, stats.chi2.sf(self.chi2, np.maximum(dof, 1)), np.nan)

    def where(self, condition: Array, other: Fits) -> Fits:
        """These fits where `condition`, else the other ones."""
        pairs = ((getattr(self, n), getattr(other, n)) for n in self.__dataclass_fields__)
        return Fits(*(np.where(condition, a, b) for a, b in pairs))


def fit(data: Whitened, claimed: float, free: bool = False) -> Fits:
    """All fits; `free` for a second term of any size."""
    total = len(data.error)
    cuts = range(0, total, _FITS_AT_ONCE)
    parts = [_fit(_part(data, slice(i, i + _FITS_AT_ONCE)), claimed, free) for i in cuts]
    return Fits(
        *(np.concatenate([getattr(f, n) for f in parts]) for n in Fits.__dataclass_fields__)
    )


def _part(data: Whitened, rows: slice) -> Whitened:
    return Whitened(data.step, data.error[rows], data.root[rows], data.spacing)


def _fit(data: Whitened, claimed: float, free: bool) -> Fits:
    n, rungs = data.error.shape

    def model(p: Array) -> tuple[Array, Array, Array]:
        return data.project(p, 2) if free else data.bent(p)

    def profile(p: Array) -> Array:
        return model(p)[0]

    trials = np.broadcast_to(GRID, (n, len(GRID)))
    on_grid = profile(trials)
    order = _minimum(profile, on_grid)
    chi2, first, second = (v[:, 0] for v in model(order[:, None]))
    inside = on_grid <= chi2[:, None] + INTERVAL_DROP
    low = -_crossing(lambda p: profile(-p), -GRID[::-1], inside[:, ::-1], -order, chi2)
    high = _crossing(profile, GRID, inside, order, chi2)

    def rise(lower: float, upper: float) -> Array:
        region = (lower <= GRID) & (upper >= GRID)
        edge = profile(np.full((n, 1), lower if np.isfinite(lower) else upper))
        values = np.concatenate([on_grid[:, region], edge], axis=1)
        outside = (order < lower) | (order > upper)
        return np.where(outside, np.maximum(values.min(axis=1) - chi2, 0.0), 0.0)

    ones = np.ones(n, dtype=np.int64)
    return Fits(
        order=order,
        low=low,
        high=high,
        first=first,
        second=second,
        chi2=chi2,
        degrees_of_freedom=(rungs - 2 - free) * ones,
        below=rise(-np.inf, claimed - 0.5),
        above=rise(claimed, np.inf),
        half_above=rise(claimed - 0.5, np.inf),
    )


def _minimum(profile: Callable[[Array], Array], on_grid: Array) -> Array:
    """The profile's minimum: the grid's best point, zoomed in ten-fold five times."""
    best: Array = GRID[np.argmin(on_grid, axis=1)]
    width = GRID[1] - GRID[0]
    for _ in range(5):
        around = np.clip(best[:, None] + width * np.linspace(-1, 1, 21), *SEARCH_RANGE)
        best = np.take_along_axis(around, np.argmin(profile(around), axis=1)[:, None], 1)[:, 0]
        width /= 10
    return best


def _crossing(
    profile: Callable[[Array], Array], grid: Array, inside: Array, order: Array, chi2: Array
) -> Array:
    """Where the profile leaves its interval for good, going up; infinite past the search range."""
    last = len(grid) - 1 - np.argmax(inside[:, ::-1], axis=1)
    start = np.where(inside.any(axis=1), np.maximum(grid[last], order), order)
    position = np.searchsorted(grid, start + 1e-12, side="right")
    unbounded = position >= len(grid)
    inner, outer = start, grid[np.minimum(position, len(grid) - 1)]
    for _ in range(40):
        middle = 0.5 * (inner + outer)
        within = profile(middle[:, None])[:, 0] <= chi2 + INTERVAL_DROP
        inner, outer = np.where(within, middle, inner), np.where(within, outer, middle)
    return np.where(unbounded, np.inf, 0.5 * (inner + outer))


def local_slopes(step: Array, error: Array, covariance: Array) -> tuple[Array, Array]:
    """Orders between neighbouring rungs, `ln|e_i/e_j| / ln(s_i/s_j)`, and their standard errors.

    First-order error propagation with the rungs' covariance; `(fit, rung - 1)` each. A standard
    error of the size of the slope says that the two rungs are not resolved.
    """
    width = np.log(step[:-1] / step[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(np.abs(error[:, :-1] / error[:, 1:])) / width
        variance = np.einsum("nii->ni", covariance) / error**2
        cross = np.einsum("nii->ni", covariance[:, :-1, 1:]) / (error[:, :-1] * error[:, 1:])
        variance_of_difference = variance[:, :-1] + variance[:, 1:] - 2 * cross
        return slope, np.sqrt(np.maximum(variance_of_difference, 0.0)) / width
