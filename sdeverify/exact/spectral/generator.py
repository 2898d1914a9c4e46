"""The generator of an SDE on tensor grids, from the SDE's own drift and diffusion product.

With A u = f . grad u + (1/2) tr(g g^T Hess u) on fixed nodes, the array r(t) that represents the
law, E phi(X_t) = sum r(t) phi(nodes), obeys dr/dt = r A(t).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sdeverify.errors import InvalidInputError
from sdeverify.exact.spectral.frames import Coordinates, Frame, as_components
from sdeverify.exact.spectral.grids import Array, ChebyshevGrid, Grid


class Field:
    """An SDE's drift and noise covariance at points given by their coordinates.

    Args:
        sde: the SDE.
        coordinates: the state's coordinates.
    """

    def __init__(self, sde: Any, coordinates: Coordinates) -> None:
        self.sde = sde
        self.coordinates = coordinates
        names: dict[str, int] = {}
        for c in coordinates:
            names[c.component] = max(names.get(c.component, 0), c.index + 1)
        offsets = {
            n: sum(names[m] for m in sde.components[:i]) for i, n in enumerate(sde.components)
        }
        self._columns = [offsets[c.component] + c.index for c in coordinates]

    def __call__(self, t: float, values: Sequence[Array]) -> tuple[list[Array], dict[Any, Array]]:
        """Drift of each coordinate and covariance of each pair, on the tensor product of values.

        Pairs (a, b) have a <= b; those without noise are left out.
        """
        shape = tuple(v.size for v in values)
        parts = as_components(self.coordinates, values)
        y = torch.cat([parts[name] for name in self.sde.components], -1)
        drift = self._checked(self.sde.f(t, y), y, "f", t)
        noise = [self._checked(self.sde.g_prod(t, y, e), y, "g_prod", t) for e in self._units(y)]
        b = [drift[:, column].reshape(shape) for column in self._columns]
        pairs = itertools.combinations_with_replacement(range(len(b)), 2)
        covariance = {
            (i, j): sum(
                (n[:, self._columns[i]] * n[:, self._columns[j]] for n in noise),
                np.zeros(len(drift)),
            ).reshape(shape)
            for i, j in pairs
        }
        return b, {pair: a for pair, a in covariance.items() if np.any(a)}

    def move(self, t: float, points: Array, dt: float, normals: Array) -> Array:
        """Points `(path, coordinate)` after an Euler-Maruyama step with normals `(path, noise)`."""
        y = torch.empty(points.shape, dtype=torch.float64)
        y[:, self._columns] = torch.from_numpy(points)
        moved = y + dt * self.sde.f(t, y)
        moved = moved + dt**0.5 * self.sde.g_prod(t, y, torch.from_numpy(normals))
        return np.array(moved.detach().numpy()[:, self._columns])

    def _units(self, y: torch.Tensor) -> list[torch.Tensor]:
        eye = torch.eye(self.sde.noise_dim, dtype=y.dtype)
        return [unit.expand(y.shape[0], -1) for unit in eye]

    def _checked(self, value: torch.Tensor, y: torch.Tensor, what: str, t: float) -> Array:
        if value.shape != y.shape:
            raise InvalidInputError(
                f"{what} of {type(self.sde).__name__} gave shape {tuple(value.shape)} for a state "
                f"of shape {tuple(y.shape)}; it must give the state's own shape."
            )
        array = value.detach().numpy()
        if not np.isfinite(array).all():
            raise InvalidInputError(
                f"{what} of {type(self.sde).__name__} is not finite at t = {t:g} on the domain. "
                "Start with u > 0 (after a warm-up), or restrict the domain."
            )
        return np.asarray(array)


@dataclass(frozen=True)
class Term:
    """A coefficient array times a derivative: along one axis, or along two."""

    axes: tuple[int, ...]
    order: int


class Generator:
    """The generator on a frame, with coefficients that may depend on time.

    Args:
        field: the SDE on its coordinates.
        frame: the grids.
    """

    def __init__(self, field: Field, frame: Frame) -> None:
        self.field = field
        self.frame = frame

    @cached_property
    def matrices(self) -> list[tuple[Array, Array]]:
        """First and second derivative along each axis, in units of the grid's own length."""
        references = [_reference(g) for g in self.frame.grids]
        return [(g.derivative(), g.second_derivative()) for g in references]

    def coefficients(self, t: float) -> dict[Term, Array]:
        """The generator's coefficients with respect to the derivatives of `matrices`."""
        frame = self.frame
        drift, covariance = self.field(t, frame.values)
        dims = len(frame.coordinates)
        slope, bend, scale = [], [], []
        for c, grid in enumerate(frame.grids):
            first, second = frame.coordinates[c].axis.chart_derivatives(frame.values[c])
            slope.append(_along(first, c, dims))
            bend.append(_along(second, c, dims))
            scale.append(_scale(grid))
        terms: dict[Term, Array] = {}
        for c in range(dims):
            speed = drift[c] * slope[c] + 0.5 * covariance.get((c, c), 0.0) * bend[c]
            terms[Term((c,), 1)] = speed * scale[c]
        for (a, b), values in covariance.items():
            factor = slope[a] * slope[b] * scale[a] * scale[b] * (0.5 if a == b else 1.0)
            terms[Term((a,) if a == b else (a, b), 2)] = values * factor
        return {term: values for term, values in terms.items() if np.any(values)}

    def apply(self, r: Array, coefficients: dict[Term, Array]) -> Array:
        """r A for an array of the grid's shape, or a batch of them in front."""
        total: Array = np.zeros_like(r)
        dims = len(self.frame.grids)
        for term, values in coefficients.items():
            part = r * values
            if len(term.axes) == 2:
                for axis in term.axes:
                    part = _contract(part, self.matrices[axis][0], axis - dims)
            else:
                part = _contract(
                    part, self.matrices[term.axes[0]][term.order - 1], term.axes[0] - dims
                )
            total += part
        return total


def _contract(part: Array, matrix: Array, axis: int) -> Array:
    if axis == -1:
        return part @ matrix
    return np.moveaxis(np.moveaxis(part, axis, -1) @ matrix, -1, axis)


def _along(values: Array, axis: int, dims: int) -> Array:
    return values.reshape([-1 if d == axis else 1 for d in range(dims)])


def _reference(grid: Grid) -> Grid:
    return ChebyshevGrid(-1.0, 1.0, grid.size) if isinstance(grid, ChebyshevGrid) else grid


def _scale(grid: Grid) -> float:
    return 2.0 / (grid.high - grid.low) if isinstance(grid, ChebyshevGrid) else 1.0
