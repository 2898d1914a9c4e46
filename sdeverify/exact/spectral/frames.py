"""State coordinates and the tensor grids on which laws and observables are represented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError
from sdeverify.exact.spectral.domain import Axis
from sdeverify.exact.spectral.grids import Array, ChebyshevGrid, Grid


@dataclass(frozen=True)
class Coordinate:
    """One number of the state: entry `index` of `component`, on its axis."""

    component: str
    index: int
    axis: Axis

    def __str__(self) -> str:
        return f"{self.component}[{self.index}]"

    def of(self, state: State) -> float:
        """The coordinate's value, in its chart, at a point."""
        value = np.array(float(state.components[self.component].reshape(-1)[self.index]))
        return float(self.axis.chart(value))


Coordinates = tuple[Coordinate, ...]


@dataclass(frozen=True)
class Frame:
    """The tensor product of one grid for each coordinate.

    A law is represented by an array `r` of the grid's shape with E phi = sum r phi(nodes): the
    interpolation from the nodes, averaged over the law.
    """

    coordinates: Coordinates
    grids: tuple[Grid, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Grid points along each coordinate."""
        return tuple(grid.size for grid in self.grids)

    @cached_property
    def values(self) -> list[Array]:
        """The nodes of each coordinate, in the state's own terms."""
        return [c.axis.value(g.nodes) for c, g in zip(self.coordinates, self.grids, strict=True)]

    @cached_property
    def components(self) -> dict[str, torch.Tensor]:
        """All grid points as the components of an ensemble, `(point, param)`."""
        return as_components(self.coordinates, self.values)

    def expectations(self, r: Array, step: float, observables: Sequence[Any]) -> Array:
        """E of each observable, `(observable,)`."""
        state = State(step, **self.components)
        return np.array([np.sum(r.ravel() * evaluate(o, state)) for o in observables])

    def transfer(self, r: Array, new: Frame) -> Array:
        """The law on the grids of another frame."""
        for axis, (old, grid) in enumerate(zip(self.grids, new.grids, strict=True)):
            if old != grid:
                matrix = grid.interpolation(old.nodes)
                r = np.moveaxis(np.tensordot(r, matrix, axes=(axis, 0)), -1, axis)
        return np.ascontiguousarray(r)


def point_frame(coordinates: Coordinates, at: Sequence[float]) -> Frame:
    """The frame that consists of one point."""
    return Frame(coordinates, tuple(ChebyshevGrid(x, x, 1) for x in at))


def as_components(coordinates: Coordinates, values: Sequence[Array]) -> dict[str, torch.Tensor]:
    """The tensor product of the coordinates' values as components `(point, param)`."""
    mesh = np.meshgrid(*values, indexing="ij")
    parts: dict[str, list[Array]] = {}
    for coordinate, array in zip(coordinates, mesh, strict=True):
        parts.setdefault(coordinate.component, []).append(array.ravel())
    return {name: torch.from_numpy(np.stack(rows, -1)) for name, rows in parts.items()}


def evaluate(observable: Callable[[State], Any], state: State) -> Array:
    """An observable on an ensemble, `(replica,)`, refused where it is not that."""
    name = getattr(observable, "name", repr(observable))
    values = torch.as_tensor(observable(state)).detach().to(torch.float64).numpy()
    replicas = state.components["theta"].shape[0]
    if values.shape != (replicas,):
        raise InvalidInputError(
            f"observable '{name}' gave shape {values.shape} for {replicas} replicas; it must give "
            "one number a replica, shape (replica,)."
        )
    if not np.isfinite(values).all():
        raise InvalidInputError(
            f"observable '{name}' is not finite on the whole domain. Restrict the domain or use "
            "an observable that is smooth there."
        )
    return np.asarray(values)
