"""What a domain says of each state coordinate: periodic, an interval, or a box that is found."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from sdeverify.errors import InvalidInputError
from sdeverify.exact.spectral.grids import Array, ChebyshevGrid, FourierGrid, Grid

FEWEST_POINTS = 12
GROWTH = 1.25
"""How much finer a grid is than the next coarser one."""
NARROWEST = 5.0
POINTS_PER_DEVIATION = 2.5
"""Grid points for each standard deviation of a box's half-width. With more, polynomials of the
grid's degree outgrow the tails of a normal law, and rounding with them (like exp(n^2/width^2))."""
LONGEST_BOX = 1.0
"""Length, in periods, up to which a periodic coordinate is kept on the line."""
MOST_POINTS = {1: (512, 56, 40), 2: (256, 44, 28), 3: (80, 36, 20)}
"""Most points by dimension: around a circle, on the line, along a root."""


class Axis(ABC):
    """One state coordinate's domain.

    `points` is how many grid points it may have at most; how many it gets is found by refinement.
    None is what the number of dimensions allows, `MOST_POINTS`.
    """

    points: int | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The largest sizes of all its grids."""
        return (size_of(self.points),)

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
    def limited(self, around: int, line: int, root: int) -> Axis:
        """The axis with these numbers of points where it has none of its own."""

    @abstractmethod
    def coarser(self, below: int) -> Axis:
        """The axis some levels below: fewer points, and with them a narrower box."""


@dataclass(frozen=True)
class Periodic(Axis):
    """A coordinate on a circle, on which drift, noise, optimizer and observables have the period.

    Both sides are first followed on the line above the circle, on boxes that hold them from their
    start on (where functions are far smoother than all around the circle); a chain's box that
    becomes longer than the circle gives way to a Fourier grid. Where this does not reach the wanted
    accuracy, they are computed again on Fourier grids alone, and the better of the two is kept.

    Args:
        points: most points of the Fourier grid.
        length: the period.
        box_points: most points of the box on the line; 0 for the Fourier grid alone.
    """

    points: int | None = None
    length: float = 2 * math.pi
    box_points: int | None = None

    def __post_init__(self) -> None:
        check_points(self)
        if not 0 < self.length < math.inf:
            raise InvalidInputError(f"a period is positive and finite; got length={self.length}.")

    @property
    def sizes(self) -> tuple[int, ...]:
        around, line = size_of(self.points), size_of(self.box_points)
        return (around, line) if line else (around,)

    def circle(self) -> Periodic:
        """The axis on the Fourier grid alone."""
        return replace(self, box_points=0)

    def line(self) -> Moving:
        """The line above the circle."""
        return Moving(self.box_points)

    def grid(self, low: float, high: float) -> Grid:
        return FourierGrid(self.length, size_of(self.points))

    def chain_grid(self, low: float, high: float) -> Grid:
        if self.box_points == 0 or high - low > LONGEST_BOX * self.length:
            return self.grid(low, high)
        return moving_grid(low, high, size_of(self.box_points))

    def limited(self, around: int, line: int, root: int) -> Periodic:
        box = line if self.box_points is None else self.box_points
        return replace(self, points=self.points or around, box_points=box)

    def coarser(self, below: int) -> Periodic:
        around, line = size_of(self.points), size_of(self.box_points)
        return replace(
            self,
            points=coarser(around, below),
            box_points=coarser(line, below),
        )


@dataclass(frozen=True)
class Interval(Axis):
    """A coordinate that stays between `low` and `high`: Chebyshev grid.

    The optimizer must map the interval into itself; that is checked before the work.
    """

    low: float
    high: float
    points: int | None = None

    def __post_init__(self) -> None:
        check_points(self)
        if not -math.inf < self.low < self.high < math.inf:
            raise InvalidInputError(
                f"an Interval needs finite low < high; got low={self.low}, high={self.high}."
            )

    def grid(self, low: float, high: float) -> Grid:
        return ChebyshevGrid(self.low, self.high, size_of(self.points))

    def limited(self, around: int, line: int, root: int) -> Interval:
        return replace(self, points=self.points or 2 * line)

    def coarser(self, below: int) -> Interval:
        return replace(self, points=coarser(size_of(self.points), below))


@dataclass(frozen=True)
class Moving(Axis):
    """A coordinate on the line, on a box that follows the dynamics: Chebyshev grid.

    Args:
        points: most grid points. The box reaches `half_width(points)` standard deviations to each
            side of the mean; functions are continued beyond it as polynomials, so nothing is
            clipped.
    """

    points: int | None = None

    def __post_init__(self) -> None:
        check_points(self)

    @property
    def box_is_found(self) -> bool:
        return True

    def grid(self, low: float, high: float) -> Grid:
        return moving_grid(low, high, size_of(self.points))

    def limited(self, around: int, line: int, root: int) -> Moving:
        return replace(self, points=self.points or line)

    def coarser(self, below: int) -> Moving:
        return replace(self, points=coarser(size_of(self.points), below))


@dataclass(frozen=True)
class Positive(Axis):
    """A positive coordinate such as u, on a box that follows the dynamics: Chebyshev in its root.

    Arguments as for `Moving`.
    """

    points: int | None = None

    def __post_init__(self) -> None:
        check_points(self)

    @property
    def box_is_found(self) -> bool:
        return True

    def grid(self, low: float, high: float) -> Grid:
        return moving_grid(low, high, size_of(self.points))

    def chart(self, x: Array) -> Array:
        return np.sqrt(x)

    def value(self, s: Array) -> Array:
        return s**2

    def chart_derivatives(self, x: Array) -> tuple[Array, Array]:
        return 0.5 / np.sqrt(x), -0.25 * x**-1.5

    def limited(self, around: int, line: int, root: int) -> Positive:
        return replace(self, points=self.points or root)

    def coarser(self, below: int) -> Positive:
        return replace(self, points=coarser(size_of(self.points), below))


def moving_grid(low: float, high: float, points: int) -> Grid:
    """A Chebyshev grid, or a single point where the box has no width."""
    if high - low <= 1e-13 * max(abs(low), abs(high)):
        return ChebyshevGrid(0.5 * (low + high), 0.5 * (low + high), 1)
    return ChebyshevGrid(low, high, points)


def size_of(points: int | None) -> int:
    """A number of points that is known by now."""
    if points is None:
        raise InvalidInputError("the axis has no number of points yet; use axis.limited(...).")
    return points


def coarser(points: int, below: int) -> int:
    """The points of a grid some levels below."""
    return round(points / GROWTH**below)


def half_width(points: int) -> float:
    """Half-width of a box that is found, in standard deviations."""
    return max(NARROWEST, points / POINTS_PER_DEVIATION)


def check_points(axis: Axis) -> None:
    """Refuses a number of points that is not whole, not positive, or that cannot be coarser."""
    if axis.points is not None and (int(axis.points) != axis.points or axis.points < 4):
        raise InvalidInputError(
            f"{type(axis).__name__}(points={axis.points}) is too coarse a grid; give a whole "
            f"number of at least {FEWEST_POINTS} points, or none at all."
        )
