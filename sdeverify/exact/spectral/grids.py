"""Spectral grids in one coordinate: nodes, interpolation and derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdeverify.errors import InvalidInputError

Array = NDArray[Any]


class GridError(InvalidInputError):
    """A grid does not hold the dynamics, or not finely enough; another one may."""


class Grid(ABC):
    """Nodes on which functions of one coordinate are known, and a basis that interpolates them."""

    size: int
    """Number of nodes."""

    @property
    @abstractmethod
    def nodes(self) -> Array:
        """The nodes, `(size,)`."""

    @abstractmethod
    def modes(self, x: Array) -> Array:
        """The basis functions at any points, `(size, *x.shape)`."""

    @abstractmethod
    def derivative(self) -> Array:
        """The matrix of d/dx on the nodes' values."""

    @abstractmethod
    def second_derivative(self) -> Array:
        """The matrix of d^2/dx^2 on the nodes' values."""

    @cached_property
    def to_nodal(self) -> Array:
        """The matrix `M` with `modes(x).T @ M` the interpolation from the nodes to x."""
        return np.linalg.inv(self.modes(self.nodes).T)

    def interpolation(self, x: Array) -> Array:
        """The interpolation matrix from the nodes to the points `(point,)`: `(point, size)`."""
        return self.modes(np.atleast_1d(x)).T @ self.to_nodal


@dataclass(frozen=True)
class FourierGrid(Grid):
    """Equidistant nodes on a circle of circumference `length`: trigonometric interpolation."""

    length: float
    size: int

    @cached_property
    def nodes(self) -> Array:
        return self.length * np.arange(self.size) / self.size

    def modes(self, x: Array) -> Array:
        angle = np.asarray(x) * (2 * np.pi / self.length)
        out = np.empty((self.size, *angle.shape))
        out[0] = 1.0
        half = self.size // 2
        rotation = np.exp(1j * angle)
        power = rotation.copy()
        for k in range(1, half + 1):
            out[2 * k - 1] = power.real
            if 2 * k < self.size:
                out[2 * k] = power.imag
            if k < half:
                power *= rotation
        return out

    def _of_modes(self, factor: Array) -> Array:
        """The circulant matrix that multiplies exp(i k x) by `factor[k]`."""
        columns = np.fft.ifft(factor[:, None] * np.fft.fft(np.eye(self.size), axis=0), axis=0)
        return np.ascontiguousarray(columns.real)

    @property
    def _wavenumbers(self) -> Array:
        return np.fft.fftfreq(self.size, 1 / self.size) * (2 * np.pi / self.length)

    def derivative(self) -> Array:
        k = self._wavenumbers.copy()
        if self.size % 2 == 0:
            k[self.size // 2] = 0.0
        return self._of_modes(1j * k)

    def second_derivative(self) -> Array:
        return self._of_modes(-(self._wavenumbers**2))


@dataclass(frozen=True)
class ChebyshevGrid(Grid):
    """Chebyshev-Lobatto nodes on [low, high]: polynomial interpolation, also beyond the ends.

    With one node it stands for a single point, where every function is a constant.
    """

    low: float
    high: float
    size: int

    @cached_property
    def nodes(self) -> Array:
        if self.size == 1:
            return np.array([self.low])
        reference = -np.cos(np.pi * np.arange(self.size) / (self.size - 1))
        reference = 0.5 * (reference - reference[::-1])
        return self.low + (self.high - self.low) * (1 + reference) / 2

    def modes(self, x: Array) -> Array:
        x = np.asarray(x, dtype=np.float64)
        out = np.empty((self.size, *x.shape))
        out[0] = 1.0
        if self.size > 1:
            out[1] = (2 * x - (self.low + self.high)) / (self.high - self.low)
            twice = 2 * out[1]
            for k in range(2, self.size):
                np.multiply(twice, out[k - 1], out=out[k])
                out[k] -= out[k - 2]
        return out

    @cached_property
    def _derivative(self) -> Array:
        n = self.size
        if n == 1:
            return np.zeros((1, 1))
        ends = np.ones(n)
        ends[[0, -1]] = 2.0
        signs = ends * (-1.0) ** np.arange(n)
        apart = self.nodes[:, None] - self.nodes[None, :] + np.eye(n)
        matrix = np.outer(signs, 1 / signs) / apart
        return matrix - np.diag(matrix.sum(1))

    def derivative(self) -> Array:
        return self._derivative

    def second_derivative(self) -> Array:
        return self._derivative @ self._derivative
