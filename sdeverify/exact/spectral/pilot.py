"""Where an SDE's law is: mean and deviation of a small ensemble, from which boxes follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sdeverify.exact.spectral.domain import Axis, Positive, half_width
from sdeverify.exact.spectral.frames import Coordinates
from sdeverify.exact.spectral.grids import Array, GridError

PATHS = 384
SEED = 20
EULER_STEPS = 4
"""Euler-Maruyama steps from one time to the next."""
MARGIN = 1e-3
"""Of the size of a coordinate: the least half-width of its box."""
DEEPEST = 0.5
"""A positive coordinate's box does not reach below this share of the smallest value."""


Move = Callable[[float, Array, float, Array], Array]
"""(t, points `(path, coordinate)`, dt, normals `(path, noise)`) -> points after dt."""


@dataclass(frozen=True)
class Pilot:
    """Mean, deviation and lowest value of each coordinate, in its chart, `(time, coordinate)`."""

    times: Array
    mean: Array
    deviation: Array
    lowest: Array

    def box(self, c: int, axis: Axis, start: float, stop: float) -> tuple[float, float]:
        """The box of coordinate c from start to stop, both among the times."""
        slack = 1e-9 * (self.times[-1] - self.times[0])
        rows = (self.times >= start - slack) & (self.times <= stop + slack)
        width = half_width(axis.sizes[-1])
        mean, deviation = self.mean[rows, c], self.deviation[rows, c]
        least = MARGIN * (MARGIN + np.abs(mean))
        low, high = mean - width * deviation - least, mean + width * deviation + least
        if isinstance(axis, Positive):
            low = np.maximum(low, DEEPEST * self.lowest[rows, c])
        return float(low.min()), float(high.max())


def pilot(
    move: Move, coordinates: Coordinates, noise_dim: int, start: Sequence[float], times: Array
) -> Pilot:
    """A few hundred Euler-Maruyama paths from a point, always the same ones.

    Args:
        move: one step of the SDE.
        start: the point, in charts.
        times: ascending, the start's first.
    """
    rng = np.random.default_rng(SEED)
    values = [c.axis.value(np.array(x)) for c, x in zip(coordinates, start, strict=True)]
    points = np.tile(np.array(values), (PATHS, 1))
    visited = [points]
    for begin, end in pairwise(times):
        dt = (end - begin) / EULER_STEPS
        for i in range(EULER_STEPS):
            points = move(begin + i * dt, points, dt, rng.standard_normal((PATHS, noise_dim)))
            for c, coordinate in enumerate(coordinates):
                if isinstance(coordinate.axis, Positive):
                    points[:, c] = np.maximum(points[:, c], 1e-12)
        if not np.isfinite(points).all():
            raise GridError(
                f"the SDE leaves every box before t = {end:.6g}. Compare fewer steps, or give an "
                "Interval on whose ends the drift points inward."
            )
        visited.append(points)
    charts = np.stack(
        [np.stack([c.axis.chart(p[:, i]) for i, c in enumerate(coordinates)], -1) for p in visited]
    )
    return Pilot(times, charts.mean(1), charts.std(1), charts.min(1))
