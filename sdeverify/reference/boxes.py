"""Boxes that follow a coordinate whose range is not given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdeverify.reference.domain import Moving, Periodic
from sdeverify.reference.frames import Frame
from sdeverify.reference.grids import Array, FourierGrid

CORE = 2.0
"""Standard deviations to each side within which the other coordinates' influence is followed."""


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
class Moments:
    """First two moments of one coordinate's images, given the point they come from.

    Args:
        mean, variance: over the atoms, of the frame's shape.
        low, high: the smallest and the largest image.
    """

    mean: Array
    variance: Array
    low: float
    high: float


def image_moments(images: Array, weights: Array) -> Moments:
    """The moments of images `(*shape, atom)`."""
    mean = images @ weights
    variance = np.square(images - mean[..., None]) @ weights
    return Moments(mean, variance, float(images.min()), float(images.max()))


def advance(frame: Frame, spreads: Sequence[Spread], axis: int, moments: Moments) -> Spread:
    """One coordinate's spread after a step, the worst case over the others' cores."""
    own, grid = spreads[axis], frame.grids[axis]
    mean, variance = _within_cores(frame, spreads, axis, moments)
    if grid.size == 1:
        return Spread(float(mean.min()), float(mean.max()), math.sqrt(float(variance.max())))
    ends = grid.interpolation(np.array([own.low, own.high])) @ mean.reshape(grid.size, -1)
    nodes = grid.nodes
    slope = float(np.abs((mean[-1] - mean[0]) / (nodes[-1] - nodes[0])).max())
    deviation = math.sqrt((slope * own.deviation) ** 2 + float(variance.max()))
    return Spread(float(ends[0].min()), float(ends[1].max()), deviation)


def _within_cores(
    frame: Frame, spreads: Sequence[Spread], axis: int, moments: Moments
) -> tuple[Array, Array]:
    mean, variance = moments.mean, moments.variance
    for other, (coordinate, grid) in enumerate(
        zip(frame.coordinates, frame.grids, strict=True)
    ):
        on_the_line = isinstance(coordinate.axis, Moving | Periodic)
        if other == axis or not on_the_line or isinstance(grid, FourierGrid) or grid.size == 1:
            continue
        low, high = spreads[other].core()
        inside = np.flatnonzero((grid.nodes >= low) & (grid.nodes <= high))
        if inside.size == 0:
            inside = np.array([np.abs(grid.nodes - 0.5 * (low + high)).argmin()])
        mean, variance = np.take(mean, inside, other), np.take(variance, inside, other)
    return np.moveaxis(mean, axis, 0), variance


def box(spread: Spread, width: float, moments: Moments) -> tuple[float, float]:
    """`width` deviations around the conditional means, but not beyond what can be reached."""
    margin = width * spread.deviation
    return max(spread.low - margin, moments.low), min(spread.high + margin, moments.high)
