"""Where the grids of an SDE's unbounded coordinates are: boxes that its flow does not leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdeverify.errors import InvalidInputError
from sdeverify.reference.domain import Moving, Positive
from sdeverify.reference.frames import Coordinates
from sdeverify.reference.grids import Array, ChebyshevGrid

STAGES = 96
"""Steps in which the boxes are followed over the horizon."""
DEGREE = 6
MARGIN = 0.03
CORE = 2.0
"""Standard deviations to each side within which the other coordinates' influence is followed."""

Evaluate = Callable[[float, Sequence[Array]], tuple[list[Array], dict[tuple[int, int], Array]]]


@dataclass(frozen=True)
class Spread:
    """The range of a coordinate's conditional means, and its largest conditional deviation."""

    low: float
    high: float
    deviation: float = 0.0

    def core(self) -> tuple[float, float]:
        """The range in which most of the law lies."""
        return self.low - CORE * self.deviation, self.high + CORE * self.deviation


@dataclass(frozen=True)
class BoxPath:
    """A box whose ends are polynomials of time.

    Args:
        start, stop: the time span.
        low, high: Chebyshev coefficients on that span.
    """

    start: float
    stop: float
    low: Array
    high: Array

    def _reference(self, t: float) -> float:
        return (2 * t - self.start - self.stop) / (self.stop - self.start)

    def at(self, t: float) -> tuple[float, float]:
        """The ends at time t."""
        s = self._reference(t)
        low, high = (np.polynomial.chebyshev.chebval(s, c) for c in (self.low, self.high))
        return float(low), float(high)

    def velocity(self, t: float) -> tuple[float, float]:
        """The ends' velocities at time t."""
        s, factor = self._reference(t), 2 / (self.stop - self.start)
        low, high = (
            factor * np.polynomial.chebyshev.chebval(s, np.polynomial.chebyshev.chebder(c))
            for c in (self.low, self.high)
        )
        return float(low), float(high)


def box_paths(
    evaluate: Evaluate,
    coordinates: Coordinates,
    start: Sequence[float],
    span: tuple[float, float],
) -> list[BoxPath | None]:
    """A path for each coordinate whose box is found, None for the others.

    The range of a coordinate's conditional means is followed by the worst case of its drift over
    the others' cores, its deviation by the largest noise; both ends then get `width` deviations.

    Args:
        evaluate: drift and covariance at (t, values of each coordinate).
        start: the starting point, in charts.
    """
    spreads = [Spread(x, x) for x in start]
    moving = [c for c, x in enumerate(coordinates) if x.axis.box_is_found]
    history = [list(spreads)]
    dt = (span[1] - span[0]) / STAGES
    for stage in range(STAGES):
        t = span[0] + stage * dt
        new = list(spreads)
        for c in moving:
            new[c] = _follow(evaluate, coordinates, spreads, c, t, dt)
        spreads = new
        history.append(list(spreads))
    paths: list[BoxPath | None] = [None] * len(coordinates)
    for c in moving:
        paths[c] = _enclose([row[c] for row in history], coordinates[c].axis, span)
        _require_finite(paths[c], str(coordinates[c]))
    return paths


def _follow(
    evaluate: Evaluate,
    coordinates: Coordinates,
    spreads: Sequence[Spread],
    c: int,
    t: float,
    dt: float,
) -> Spread:
    """The spread of coordinate c after dt, by an exponential Euler step."""
    own, axis = spreads[c], coordinates[c].axis
    middle = 0.5 * (own.low + own.high)
    half = max(0.5 * (own.high - own.low), 1e-4 * (1e-3 + abs(middle)))
    values = [_sample(coordinates, spreads, other) for other in range(len(spreads))]
    values[c] = axis.value(np.array([middle - half, middle + half]))
    drift, covariance = evaluate(t, values)
    first, second = (
        np.moveaxis(d.reshape([-1 if k == c else 1 for k in range(len(values))]), c, 0)
        for d in axis.chart_derivatives(values[c])
    )
    noise = np.moveaxis(covariance.get((c, c), np.zeros_like(drift[c])), c, 0)
    speed = np.moveaxis(drift[c], c, 0) * first + 0.5 * noise * second
    slope = float(((speed[1] - speed[0]) / (2 * half)).max())
    gain = _exponential_mean(slope * dt) * dt
    variance = own.deviation**2 * math.exp(2 * slope * dt)
    variance += float((noise * first**2).max()) * dt * _exponential_mean(2 * slope * dt)
    return Spread(
        own.low + gain * float(speed[0].min()),
        own.high + gain * float(speed[1].max()),
        math.sqrt(variance),
    )


def _exponential_mean(x: float) -> float:
    """(exp(x) - 1)/x."""
    return math.expm1(x) / x if abs(x) > 1e-12 else 1.0


def _sample(coordinates: Coordinates, spreads: Sequence[Spread], c: int) -> Array:
    """Values of another coordinate over which the worst case is taken."""
    axis, spread = coordinates[c].axis, spreads[c]
    if not axis.box_is_found:
        return axis.value(axis.grid(0.0, 0.0).nodes)
    low, high = spread.core()
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return axis.value(np.array([low]))
    return axis.value(ChebyshevGrid(low, high, 5).nodes)


def _enclose(history: Sequence[Spread], axis: object, span: tuple[float, float]) -> BoxPath:
    """Smooth ends around a history: constant for `Moving`, polynomials for `Positive`."""
    assert isinstance(axis, Moving | Positive)
    low = np.array([s.low for s in history])
    high = np.array([s.high for s in history])
    margin = axis.width * max(s.deviation for s in history)
    if isinstance(axis, Moving):
        ends = (float(low.min()) - margin, float(high.max()) + margin)
        wide = 1e-3 * (1e-3 + abs(ends[0]) + abs(ends[1]))
        return BoxPath(*span, np.array([ends[0] - wide]), np.array([ends[1] + wide]))
    low = np.maximum(low * (1 - MARGIN) - margin, 0.25 * low)
    high = high * (1 + MARGIN) + margin
    s = np.linspace(-1, 1, len(history))
    fits = []
    for side, edge in ((-1.0, low), (1.0, high)):
        fit = np.polynomial.chebyshev.chebfit(s, edge, DEGREE)
        fit[0] += side * float(np.max(side * (edge - np.polynomial.chebyshev.chebval(s, fit))))
        fits.append(fit)
    return BoxPath(*span, low=fits[0], high=fits[1])


def _require_finite(path: BoxPath | None, name: str) -> None:
    if path is None:
        return
    for t in np.linspace(path.start, path.stop, 9):
        low, high = path.at(float(t))
        if not (np.isfinite([low, high]).all() and low < high < 1e6):
            raise InvalidInputError(
                f"no box was found for {name}: its range reaches [{low:.4g}, {high:.4g}] within "
                "the horizon. Compare fewer steps, or give an Interval."
            )
