"""What a domain says of each state coordinate: periodic, an interval, or a box that is found."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from sdeverify.errors import InvalidInputError
from sdeverify.reference.grids import Array, ChebyshevGrid, FourierGrid, Grid

FEWEST_POINTS = 8
LONGEST_BOX = 1.0
"""Length, in periods, up to which a periodic coordinate of a chain is kept on the line."""


class Axis(ABC):
    """One state coordinate's domain, and how many grid points it gets."""

    points: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of all its grids."""
        return (self.points,)

    @property
    def box_is_found(self) -> bool:
        """Whether the grid follows the dynamics, instead of being the same at all times."""
        return False

    @abstractmethod
    def grid(self, low: float, high: float) -> Grid:
        """The grid in the chart; `low` and `high` are read only where the box is found."""

    def chain_grid(self, low: float, high: float) -> Grid:
        """The grid of a chain whose law lies between `low` and `high`."""
        return self.grid(low, high)

    def chart(self, x: Array) -> Array:
        """The coordinate in which the grid is laid out."""
        return x

    def value(self, s: Array) -> Array:
        """The inverse of `chart`."""
        return s

    def chart_derivatives(self, x: Array) -> tuple[Array, Array]:
        """First and second derivative of `chart`."""
        return np.ones_like(x), np.zeros_like(x)

    @abstractmethod
    def coarser(self) -> Axis:
        """The axis of the comparison that gives the bound: fewer points, a narrower box."""


@dataclass(frozen=True)
class Periodic(Axis):
    """A coordinate on a circle, on which drift, noise, optimizer and observables have the period.

    An SDE lives on a Fourier grid. A chain first lives on the line above the circle, on a box that
    follows it from its start (where functions are far smoother than all around the circle), until
    that box is longer than the circle. Where this does not reach the wanted accuracy, it is
    computed again on the Fourier grid alone, and the better of the two is kept.

    Args:
        points: number of points of the Fourier grid.
        length: the period.
        box_points: number of points of the box on the line; 0 for the Fourier grid alone.
        width: the box's half-width, as for `Moving`.
    """

    points: int = 64
    length: float = 2 * math.pi
    box_points: int = 32
    width: float = 8.0

    def __post_init__(self) -> None:
        check_points(self)
        check_width(self.width)
        if not 0 < self.length < math.inf:
            raise InvalidInputError(f"a period is positive and finite; got length={self.length}.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.points, self.box_points) if self.box_points else (self.points,)

    def circle(self) -> Periodic:
        """The axis on the Fourier grid alone."""
        return replace(self, box_points=0)

    def grid(self, low: float, high: float) -> Grid:
        return FourierGrid(self.length, self.points)

    def chain_grid(self, low: float, high: float) -> Grid:
        if self.box_points == 0 or high - low > LONGEST_BOX * self.length:
            return self.grid(low, high)
        return moving_grid(low, high, self.box_points)

    def coarser(self) -> Periodic:
        return replace(
            self,
            points=fewer(self.points),
            box_points=fewer(self.box_points) if self.box_points else 0,
            width=0.9 * self.width,
        )


@dataclass(frozen=True)
class Interval(Axis):
    """A coordinate that stays between `low` and `high`: Chebyshev grid.

    The optimizer must map the interval into itself; that is checked before the work.
    """

    low: float
    high: float
    points: int = 48

    def __post_init__(self) -> None:
        check_points(self)
        if not -math.inf < self.low < self.high < math.inf:
            raise InvalidInputError(
                f"an Interval needs finite low < high; got low={self.low}, high={self.high}."
            )

    def grid(self, low: float, high: float) -> Grid:
        return ChebyshevGrid(self.low, self.high, self.points)

    def coarser(self) -> Interval:
        return replace(self, points=fewer(self.points))


@dataclass(frozen=True)
class Moving(Axis):
    """A coordinate on the line, on a box that follows the dynamics: Chebyshev grid.

    Args:
        points: number of grid points.
        width: standard deviations to each side of the range of conditional means. Functions are
            continued beyond the box as polynomials, so nothing is clipped.
    """

    points: int = 32
    width: float = 8.0

    def __post_init__(self) -> None:
        check_points(self)
        check_width(self.width)

    @property
    def box_is_found(self) -> bool:
        return True

    def grid(self, low: float, high: float) -> Grid:
        return moving_grid(low, high, self.points)

    def coarser(self) -> Moving:
        return replace(self, points=fewer(self.points), width=0.9 * self.width)


@dataclass(frozen=True)
class Positive(Axis):
    """A positive coordinate such as u, on a box that follows the dynamics: Chebyshev in its root.

    Arguments as for `Moving`.
    """

    points: int = 14
    width: float = 8.0

    def __post_init__(self) -> None:
        check_points(self)
        check_width(self.width)

    @property
    def box_is_found(self) -> bool:
        return True

    def grid(self, low: float, high: float) -> Grid:
        return moving_grid(low, high, self.points)

    def chart(self, x: Array) -> Array:
        return np.sqrt(x)

    def value(self, s: Array) -> Array:
        return s**2

    def chart_derivatives(self, x: Array) -> tuple[Array, Array]:
        return 0.5 / np.sqrt(x), -0.25 * x**-1.5

    def coarser(self) -> Positive:
        return replace(self, points=fewer(self.points), width=0.9 * self.width)


def moving_grid(low: float, high: float, points: int) -> Grid:
    """A Chebyshev grid, or a single point where the box has no width."""
    if high - low <= 1e-13 * max(abs(low), abs(high)):
        return ChebyshevGrid(0.5 * (low + high), 0.5 * (low + high), 1)
    return ChebyshevGrid(low, high, points)


def fewer(points: int) -> int:
    """The coarser grid's points: an eighth fewer, at least two."""
    return points - max(2, points // 8)


def check_points(axis: Axis) -> None:
    """Refuses a number of points that is not whole or below four."""
    if int(axis.points) != axis.points or axis.points < 4:
        raise InvalidInputError(
            f"{type(axis).__name__}(points={axis.points}) is too coarse a grid; give a whole "
            f"number of at least {FEWEST_POINTS} points."
        )


def check_width(width: float) -> None:
    """Refuses a box narrower than four standard deviations to each side."""
    if not 4 <= width <= 40:
        raise InvalidInputError(
            "width is the half-width of a box in standard deviations, between 4 and 40; got "
            f"{width}."
        )
