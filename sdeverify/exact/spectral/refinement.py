"""From coarse grids to finer ones until the numerical error is small enough.

An axis says how many points it may have at most. Results are computed on grids of a share of that,
`GROWTH` times finer from level to level, with wider boxes; `bound` comes from the way in which
the last three converge, and the first level at which it is small enough ends it. A periodic
coordinate can be followed on the line above its circle, where functions are far smoother, or around
the circle; an SDE's boxes on the line may be the same at all times or change from piece to piece of
the time. Where one of these families of grids does not get there, the next one is tried.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from sdeverify.errors import UnsupportedError
from sdeverify.exact.spectral.domain import FEWEST_POINTS, coarser
from sdeverify.exact.spectral.frames import Coordinates
from sdeverify.exact.spectral.grids import Array, GridError

ACCURACY = {1: 1e-12, 2: 1e-8, 3: 1e-6}
"""The bound that is aimed at, by dimension."""
AIM = 0.3
"""Of the wanted accuracy, so that both sides together stay below it."""
LEVELS = 8
SAFETY = 2.0
GUARD = 0.5
SLOWEST = 10.0
HUGE = 1e100
"""Stands for a result that is not finite."""
NOTHING_LEFT = 1e-11
"""Relative difference below which only rounding is left."""
PROGRESS = 0.7
"""Share of the best bound above which a family is given up for the next one."""
MEANINGLESS = 0.01
"""Bound, as a share of the largest expectation, above which a result is refused."""
PATIENCE = 3
"""Levels in a row without any progress after which the last family is given up."""

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)

Run = Callable[["Family", int], Array]
"""(grids, level below the finest) -> expectations `(step, observable)`."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Exact expectations that are begun inside are given up after so many seconds in all."""
    before = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(before)


def keep_to_time() -> None:
    """Called between the parts of a long computation.

    Raises:
        UnsupportedError: the time of `time_limit` is over.
    """
    if time.monotonic() > _deadline.get():
        raise UnsupportedError(
            "the exact route did not get there in the time that it was given. An SDE or a step "
            "that is not smooth (a sign, a clip) is never resolved on its grids: check that with "
            "check_sde, which needs none, and with a measured study. Otherwise compare fewer steps "
            "or fewer rungs, or give more seconds."
        )


@dataclass(frozen=True)
class Family:
    """Grids of all levels.

    Args:
        coordinates: each with as many points as it may have.
        pieces: into about how many pieces the time is cut, on each of which an SDE's boxes stay.
    """

    coordinates: Coordinates
    pieces: int = 1

    @property
    def levels(self) -> int:
        """How many there are from the fewest points that make sense to the most."""
        fewest = min(n for c in self.coordinates for n in c.axis.sizes)
        count = 1
        while count < LEVELS and coarser(fewest, count) >= FEWEST_POINTS // 3:
            count += 1
        return count

    def coarser(self, below: int) -> Family:
        """The grids some levels below."""
        grids = tuple(replace(c, axis=c.axis.coarser(below)) for c in self.coordinates)
        return Family(grids, max(1, self.pieces - below))


@dataclass(frozen=True)
class Converged:
    """Expectations `(step, observable)`, their bound, and the grids that gave them."""

    mean: Array
    bound: Array
    grids: Family

    @property
    def largest(self) -> float:
        """The largest bound."""
        return float(self.bound.max())


def converge(run: Run, families: Sequence[Family], growth: Array, accuracy: float) -> Converged:
    """The first result with a bound below `accuracy`, or else the one with the smallest bound.

    Args:
        run: computes the expectations on grids; a `GridError` means that these do not do.
        families: in the order in which they are tried.
        growth: the number of steps at each recorded time, for rounding.
        accuracy: the bound that is wanted.

    Raises:
        GridError: no family gives three results in a row.
    """
    best: Converged | None = None
    failure: GridError | None = None
    for family in families:
        try:
            candidate = _climb(run, family, growth, accuracy, last=family is families[-1])
        except GridError as error:
            failure = error
            continue
        if best is None or candidate.largest < best.largest:
            best = candidate
        if best.largest <= accuracy:
            break
    if best is None:
        raise failure or GridError("there are no grids to compute on.")
    return best


def _climb(run: Run, family: Family, growth: Array, accuracy: float, last: bool) -> Converged:
    """One family, level by level, until its bound is small enough or does not fall any more."""
    results: list[Array] = []
    best: Converged | None = None
    failure: GridError | None = None
    idle = 0
    for below in reversed(range(family.levels)):
        keep_to_time()
        grids = family.coarser(below)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                results.append(run(grids, below))
        except GridError as error:
            results.clear()
            failure = error
            continue
        if len(results) < 3:
            continue
        candidate = Converged(results[-1], numerical_error(results[-3:], growth), grids)
        progress = 1.0 if last else PROGRESS
        idle = 0 if best is None or candidate.largest < progress * best.largest else idle + 1
        if best is None or candidate.largest < best.largest:
            best = candidate
        if best.largest <= accuracy or idle == (PATIENCE if last else 1):
            break
    if best is None:
        raise failure or GridError("there are fewer than three levels of grids. Give more points.")
    size = float(np.abs(best.mean).max())
    if not best.largest <= MEANINGLESS * size:
        raise failure or GridError(
            f"too coarse a grid: expectations of size {size:.3g} have a numerical error of "
            f"{best.largest:.1e} on the finest grids. Give more points, or compare fewer steps."
        )
    return best


def numerical_error(results: Sequence[Array], growth: Array) -> Array:
    """The bound from three refinements, coarsest first, `(step, observable)`.

    With d the difference of the two finest, e that of the two coarsest, and r the factor by which
    differences fall, the larger of 2 d max(1, r/(1 - r)), at most 20 d, and e/2, which guards
    against a d that is small by chance; and at least half the other observables' bounds, in
    units of their size. It does not fall with time: errors are carried along.
    """
    rougher, rough, fine = (np.clip(np.nan_to_num(x, nan=HUGE), -HUGE, HUGE) for x in results)
    scale = np.abs(fine).max(0) + 1 / HUGE
    last = np.maximum.accumulate(np.abs(fine - rough), axis=0)
    before = np.maximum.accumulate(np.abs(rough - rougher), axis=0)
    falls = (last / scale).max(1) / np.maximum((before / scale).max(1), 1 / HUGE)
    left = np.clip(falls / np.maximum(1 - falls, 1e-9), 1.0, SLOWEST)[:, None]
    left = np.where((last / scale).max(1, keepdims=True) < NOTHING_LEFT, 1.0, left)
    rounding = np.finfo(float).eps * (20 + 2 * np.sqrt(growth)[:, None]) * scale
    bound = np.maximum(SAFETY * left * last, GUARD * before)
    shared = 0.5 * scale * (bound / scale).max(1, keepdims=True)
    bound = np.maximum(bound, shared) + rounding
    bound[growth == 0] = 0.0
    return np.asarray(bound)


def with_fewer_nodes(thing: Any) -> Any:
    """An oracle or noise with fewer quadrature nodes where it has any; else itself.

    Nodes are recognised as a whole-number field `nodes` of a frozen dataclass, however deep.
    """
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(thing):
        value = getattr(thing, f.name)
        if f.name == "nodes" and isinstance(value, int):
            changes[f.name] = max(2, value - max(2, value // 8))
        elif f.name in {"noise", "base", "of"} and dataclasses.is_dataclass(value):
            smaller = with_fewer_nodes(value)
            if smaller is not value:
                changes[f.name] = smaller
    return dataclasses.replace(thing, **changes) if changes else thing


SHARE = 0.01
"""Largest bound, as a share of a weak error, at which it counts as resolved."""
REACH = 0.01
"""How much more accuracy than the usual one is tried for, to resolve a weak error."""
ROUNDING = 1e-13
"""An accuracy that rounding does not allow to better."""


def accuracy_to_resolve(errors: Sequence[xr.Dataset]) -> float | None:
    """The accuracy of each side at which the errors are resolved, as far as it can be reached.

    None where all of them are, or where nothing better can be had.
    """
    later = [e.isel(step=slice(1, None)) for e in errors]
    if all(bool(e["resolved"].all()) for e in later):
        return None
    smallest = min(float(abs(e["error"]).min()) for e in later)
    had = min(float(e.attrs["accuracy"]) for e in errors)
    wanted = max(0.5 * SHARE * smallest, REACH * had, ROUNDING)
    return wanted if wanted < had else None


def better(
    side: xr.Dataset, compute: Callable[[float | None], xr.Dataset], accuracy: float
) -> xr.Dataset:
    """A side, computed again where it is not accurate enough."""
    return side if float(side["bound"].max()) <= accuracy else compute(accuracy)
