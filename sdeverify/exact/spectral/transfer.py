"""The transfer operator of a chain: laws pushed through the optimizer's own step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError
from sdeverify.exact.spectral.domain import Interval, Moving, Periodic, Positive, half_width
from sdeverify.exact.spectral.frames import Coordinates, Frame, point_frame
from sdeverify.exact.spectral.grids import Array, ChebyshevGrid, FourierGrid, Grid, GridError
from sdeverify.exact.spectral.push import dense_operator, push
from sdeverify.exact.spectral.refinement import keep_to_time

LARGEST_MATRIX = 4096
"""Grid points up to which a repeated step is kept as a dense matrix."""


@dataclass
class Chain:
    """The optimizer's step on grid points x atoms.

    Args:
        optimizer, oracle: as handed to `exact_weak_error`.
        coordinates: the state's coordinates, theta's first.
    """

    optimizer: Any
    oracle: Any
    coordinates: Coordinates
    _gradients: dict[bytes, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        atoms = self.oracle.atoms()
        self.weights: Array = atoms.weights.detach().numpy().astype(np.float64)
        self._atoms = atoms.gradients

    def images(self, k: int, frame: Frame) -> list[Array]:
        """Where own step k takes each grid point, by atom: charts, each `(*shape, atom)`."""
        point = State(k / self.optimizer.refinement, **frame.components)
        atoms = self.weights.size
        y = {
            name: value.repeat_interleave(atoms, 0)
            for name, value in self.optimizer.from_sde(point, self.oracle).items()
        }
        moved = self.optimizer.step(k, y, self._gradient(frame))
        state = self.optimizer.to_sde(k + 1, moved, self.oracle)
        return [self._chart(frame, c, state, k) for c in range(len(self.coordinates))]

    def check_reach(self, k: int, start: State) -> None:
        """Refuses, before the work, an Interval that a step from some grid point leaves."""
        if any(isinstance(c.axis, Interval) for c in self.coordinates):
            at = [c.of(start) for c in self.coordinates]
            grids = [
                c.axis.grid(0.0, 0.0) if isinstance(c.axis, Interval) else ChebyshevGrid(x, x, 1)
                for c, x in zip(self.coordinates, at, strict=True)
            ]
            self.images(k, Frame(self.coordinates, tuple(grids)))

    def _chart(self, frame: Frame, c: int, state: State, k: int) -> Array:
        coordinate = self.coordinates[c]
        values = state.components[coordinate.component][:, coordinate.index].detach().numpy()
        with np.errstate(invalid="ignore"):
            images = coordinate.axis.chart(values.reshape(*frame.shape, self.weights.size))
        if not np.isfinite(images).all():
            raise InvalidInputError(
                f"step {k} of {type(self.optimizer).__name__} gives {coordinate} that is not "
                "finite, or negative where it should be positive, from points of the domain. "
                "Start with u > 0, or keep the domain to states that the optimizer can reach."
            )
        check_interval(coordinate, images, k)
        return images

    def _gradient(self, frame: Frame) -> torch.Tensor:
        """The atoms' gradients at all grid points, `(point * atom, param)`."""
        dim = sum(c.component == "theta" for c in self.coordinates)
        key = b"".join(v.tobytes() for v in frame.values[:dim])
        if key not in self._gradients:
            first = Frame(self.coordinates[:dim], frame.grids[:dim])
            self._gradients.clear()
            self._gradients[key] = self._atoms(first.components["theta"]).detach()
        each = self._gradients[key]
        rest = int(np.prod(frame.shape[dim:], dtype=int))
        return each.unsqueeze(1).expand(-1, rest, -1, -1).reshape(-1, each.shape[-1])

    def next_frame(self, frame: Frame, law: Array, images: Sequence[Array]) -> Frame:
        """The grids that are to carry the law of the images."""
        grids: list[Grid] = []
        for c, old in enumerate(frame.grids):
            axis, low, high = self.coordinates[c].axis, 0.0, 0.0
            if isinstance(axis, Moving | Periodic | Positive):
                low, high = box(law, images[c], self.weights, half_width(axis.sizes[-1]))
            grids.append(old if isinstance(old, FourierGrid) else axis.chain_grid(low, high))
        if all(g == old for g, old in zip(grids, frame.grids, strict=True)):
            return frame
        return Frame(self.coordinates, tuple(grids))


def check_interval(coordinate: Any, images: Array, k: int) -> None:
    """Refuses an interval that the chain leaves."""
    axis = coordinate.axis
    if isinstance(axis, Moving | Periodic | Positive):
        return
    low, high = float(images.min()), float(images.max())
    slack = 1e-9 * (axis.high - axis.low)
    if low < axis.low - slack or high > axis.high + slack:
        raise InvalidInputError(
            f"step {k} takes {coordinate} out of its Interval({axis.low:g}, {axis.high:g}), to "
            f"[{low:.6g}, {high:.6g}]. Widen the interval until the optimizer maps it into "
            "itself, use Moving(), or Periodic() if the coordinate is an angle."
        )


@dataclass
class Sweep:
    """A law on its way through the chain, with the dense matrix of a step that repeats itself."""

    chain: Chain
    frame: Frame
    law: Array
    _images: list[Array] | None = None
    _source: Frame | None = None
    _matrix: Array | None = None

    def step(self, k: int) -> None:
        """Own step k."""
        images = self.chain.images(k, self.frame)
        if self._repeats(images):
            if self._matrix is None:
                self._matrix = dense_operator(images, self.chain.weights, self.frame)
            self.law = (self.law.ravel() @ self._matrix).reshape(self.frame.shape)
            return
        new = self.chain.next_frame(self.frame, self.law, images)
        self.law = push(self.law, images, self.chain.weights, new)
        self._images, self._source, self._matrix = images, self.frame, None
        self.frame = new

    def _repeats(self, images: list[Array]) -> bool:
        """Whether this step is the last one again, on the same grids, small enough for a matrix."""
        if self._images is None or self._source is not self.frame or len(images) > 2:
            return False
        if self.law.size > LARGEST_MATRIX:
            return False
        return all(np.array_equal(a, b) for a, b in zip(images, self._images, strict=True))


def chain_expectations(
    optimizer: Any,
    oracle: Any,
    start: State,
    own_steps: Sequence[int],
    observables: Sequence[Any],
    coordinates: Coordinates,
) -> Array:
    """E of each observable after each of the ascending own steps, `(step, observable)`."""
    chain = Chain(optimizer, oracle, coordinates)
    at = [c.of(start) for c in coordinates]
    sweep = Sweep(chain, point_frame(coordinates, at), np.ones((1,) * len(at)))
    k = optimizer.own_step(start.step)
    rows = []
    for target in own_steps:
        while k < target:
            keep_to_time()
            sweep.step(k)
            k += 1
        step = k / optimizer.refinement
        rows.append(sweep.frame.expectations(sweep.law, step, observables))
    if not np.isfinite(rows).all():
        raise GridError("the exact expectations are not finite: the grids do not hold the chain.")
    return np.stack(rows)


def box(law: Array, images: Array, weights: Array, width: float) -> tuple[float, float]:
    """`width` standard deviations around the mean of the images, but not beyond their range.

    Args:
        law: on the grid, `(*shape,)`.
        images: one coordinate's images of the grid points, `(*shape, atom)`.
        weights: the atoms' weights.
        width: half-width in standard deviations.
    """
    mean = float(np.sum(law * (images @ weights)))
    variance = float(np.sum(law * (np.square(images - mean) @ weights)))
    if not math.isfinite(variance):
        return float(images.min()), float(images.max())
    margin = width * math.sqrt(max(variance, 0.0))
    return max(mean - margin, float(images.min())), min(mean + margin, float(images.max()))
