"""Small problems in closed form, with few enough samples for the exact route.

Each is made of numbers that do not change, so that results on it can be published and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from sdeverify.base.shapes import (
    Indices,
    Parameters,
    SampleGradients,
    SampleLosses,
    Tensor,
    Weights,
)
from sdeverify.problems.problem import SmallProblem


@dataclass(frozen=True)
class AnalyticProblem(SmallProblem):
    """A problem whose losses, gradients and mean Hessian are written out.

    Args:
        values: theta `(replica, param)` -> losses `(replica, sample)`.
        gradients: theta -> per-sample gradients `(replica, sample, param)`.
        hessian: theta -> Hessian of the mean loss `(replica, param, param)`.
        dim: number of parameters.
        samples: number of samples.
        periods: the period of each parameter, None for a parameter on the line.
        compiled: whether steps on it are compiled (`dataclasses.replace(problem, compiled=True)`):
            the same numbers to rounding, at a cost of seconds for each SDE and step size.
    """

    values: Callable[[Tensor], Tensor]
    gradients: Callable[[Tensor], Tensor]
    hessian: Callable[[Tensor], Tensor]
    dim: int
    samples: int
    periods: tuple[float | None, ...]
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    compiled: bool = False

    def every_loss(self, theta: Parameters) -> SampleLosses:
        return self.values(theta)

    def every_gradient(self, theta: Parameters) -> SampleGradients:
        return self.gradients(theta)

    def weighted_gradient(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> Parameters:
        return torch.einsum("rn,rnd->rd", weights, self.per_sample_gradients(theta, indices))

    def squared_gradient_drift(self, theta: Parameters) -> Parameters:
        return torch.einsum("rde,re->rd", self.hessian(theta), self.gradient(theta))

    def gradient(self, theta: Parameters) -> Parameters:
        each = self.gradients(theta)
        return each.squeeze(1) if self.samples == 1 else each.mean(1)


def circle_problem(dtype: torch.dtype = torch.float64) -> AnalyticProblem:
    """Six losses on the circle, l_i(x) = -a_i cos(x - p_i) - b_i cos(2 (x - q_i)), period 2 pi.

    The constants come from `numpy.random.default_rng(0)`: a uniform in (0.5, 1.5), p normal with
    standard deviation 0.6, b uniform in (-0.3, 0.3), q uniform in (0, 2 pi), six of each in turn.
    """
    rng = np.random.default_rng(0)
    a, p, b, q = (
        torch.from_numpy(row).to(dtype)
        for row in (
            rng.uniform(0.5, 1.5, 6),
            rng.normal(0, 0.6, 6),
            rng.uniform(-0.3, 0.3, 6),
            rng.uniform(0, 2 * np.pi, 6),
        )
    )

    def values(theta: Tensor) -> Tensor:
        return -a * torch.cos(theta - p) - b * torch.cos(2 * (theta - q))

    def gradients(theta: Tensor) -> Tensor:
        return (a * torch.sin(theta - p) + 2 * b * torch.sin(2 * (theta - q))).unsqueeze(-1)

    def hessian(theta: Tensor) -> Tensor:
        each = a * torch.cos(theta - p) + 4 * b * torch.cos(2 * (theta - q))
        return each.mean(1).reshape(-1, 1, 1)

    return AnalyticProblem(values, gradients, hessian, 1, 6, (2 * math.pi,), dtype)


def torus_problem() -> AnalyticProblem:
    """Four losses on the torus, two parameters of period 2 pi, noise correlated between them.

    l_i(x, y) = -a_i cos(x - p_i) - b_i cos(y - q_i) - c_i cos(x - y - s_i)
    """
    a = torch.tensor([0.9, 1.2, 0.7, 1.1], dtype=torch.float64)
    b = torch.tensor([0.8, 0.6, 1.0, 0.9], dtype=torch.float64)
    c = torch.tensor([0.3, -0.2, 0.4, 0.1], dtype=torch.float64)
    p = torch.tensor([-0.5, 0.4, 0.1, 0.6], dtype=torch.float64)
    q = torch.tensor([0.3, -0.7, 0.2, 0.5], dtype=torch.float64)
    s = torch.tensor([0.0, 1.0, -0.4, 2.0], dtype=torch.float64)

    def values(theta: Tensor) -> Tensor:
        x, y = theta[:, :1], theta[:, 1:]
        return -a * torch.cos(x - p) - b * torch.cos(y - q) - c * torch.cos(x - y - s)

    def gradients(theta: Tensor) -> Tensor:
        x, y = theta[:, :1], theta[:, 1:]
        both = c * torch.sin(x - y - s)
        return torch.stack([a * torch.sin(x - p) + both, b * torch.sin(y - q) - both], -1)

    def hessian(theta: Tensor) -> Tensor:
        x, y = theta[:, :1], theta[:, 1:]
        both = (c * torch.cos(x - y - s)).mean(1)
        xx = (a * torch.cos(x - p)).mean(1) + both
        yy = (b * torch.cos(y - q)).mean(1) + both
        return torch.stack([torch.stack([xx, -both], -1), torch.stack([-both, yy], -1)], -2)

    return AnalyticProblem(values, gradients, hessian, 2, 4, (2 * math.pi, 2 * math.pi))


def line_problem() -> AnalyticProblem:
    """Five losses on the line, l_i(x) = a_i log cosh(x - c_i), with gradients between -a_i and a_i.

    SGD with a learning rate below 0.7 maps the interval from -2 to 2 into itself.
    """
    a = torch.tensor([0.8, 1.1, 0.9, 1.3, 1.0], dtype=torch.float64)
    c = torch.tensor([-0.9, -0.3, 0.1, 0.5, 1.0], dtype=torch.float64)

    def values(theta: Tensor) -> Tensor:
        x = theta - c
        return a * (x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2))

    def gradients(theta: Tensor) -> Tensor:
        return (a * torch.tanh(theta - c)).unsqueeze(-1)

    def hessian(theta: Tensor) -> Tensor:
        return (a * (1 - torch.tanh(theta - c).square())).mean(1).reshape(-1, 1, 1)

    return AnalyticProblem(values, gradients, hessian, 1, 5, (None,))
