"""Moments of an SDE's increment over a short time, from its coded drift and diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sdeverify.base.shapes import Tensor
from sdeverify.sdes.sde import SDE

Array = NDArray[np.float64]

SPACING = 2e-3
FIRST = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12
SECOND = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12
ERROR = 1e-8
"""Of the differences of fourth order, relative to the larger of value and 1."""


class LocalMoments:
    """E prod_i (Y_i(t + tau) - y_i)/tau of dY = f dt + g dW from a point y.

    Ito and Taylor give (L phi)(y) + (tau/2) (d/dt + L) L phi (y) + O(tau^2), with
    L phi = f . grad phi + (1/2) g g^T : Hess phi. The outer L is taken by differences along f and
    along the columns of g.

    Args:
        second: whether the term of order tau is wanted.
    """

    def __init__(self, sde: SDE, t: float, y: Tensor, second: bool = False) -> None:
        at = _numbers(y)[0]
        self.drift, self.covariance = (v[0] for v in _coefficients(sde, t, y))
        self.lines: list[tuple[Array, Array, Array, Array]] = []
        if not second:
            return
        columns = _numbers(sde.g(t, y))[0].T
        shifts = SPACING * np.arange(-2, 3)
        along = torch.as_tensor(self.drift) * torch.as_tensor(shifts).unsqueeze(1)
        drift, covariance = zip(
            *(
                (f[0], a[0])
                for f, a in (
                    _coefficients(sde, t + s, y + step.to(y))
                    for s, step in zip(shifts, along, strict=True)
                )
            ),
            strict=True,
        )
        self.lines.append((FIRST / SPACING, along.numpy(), np.stack(drift), np.stack(covariance)))
        for column in columns[np.abs(columns).max(1) > 0]:
            steps = shifts[:, None] * column
            points = torch.as_tensor(at + steps).to(y)
            line = _coefficients(sde, t, points)
            self.lines.append((SECOND / (2 * SPACING**2), steps, *line))

    def rate(self, which: Sequence[int], tau: float) -> tuple[float, float]:
        """The moment of these coordinates' increments over tau, and its numerical error."""
        zero = np.zeros((1, len(self.drift)))
        value = float(generated(which, zero, self.drift[None], self.covariance[None])[0])
        bend = [float(w @ generated(which, x, f, a)) for w, x, f, a in self.lines]
        largest = max([1.0, *map(abs, bend)]) if bend else 0.0
        return value + 0.5 * tau * sum(bend), 0.5 * tau * ERROR * largest


def generated(which: Sequence[int], x: Array, drift: Array, covariance: Array) -> Array:
    """L phi for phi = prod_i x_i over `which`, at displacements x `(point, coordinate)`."""
    total = np.zeros(len(x))
    for n, i in enumerate(which):
        rest = [*which[:n], *which[n + 1 :]]
        total += drift[:, i] * x[:, rest].prod(1)
        for m in range(n):
            others = [j for p, j in enumerate(which) if p not in (n, m)]
            total += covariance[:, i, which[m]] * x[:, others].prod(1)
    return total


def _coefficients(sde: SDE, t: float, y: Tensor) -> tuple[Array, Array]:
    """f and g g^T at points `(point, packed)`."""
    g = _numbers(sde.g(t, y))
    return _numbers(sde.f(t, y)), g @ g.transpose(0, 2, 1)


def _numbers(values: Tensor) -> Array:
    return np.asarray(values.detach().to("cpu", torch.float64).numpy())
