"""Requirements with a message, and the toy problem that the checks bring."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.warm_up import warm_up
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.problems.library import torus_problem
from sdeverify.problems.problem import Problem

WARM_UP = 12
SPREAD = 16
"""Points that are spread over the range of theta."""
WIDTH = 0.5
"""The least width of what counts as visited, of each parameter."""


def require(condition: bool, message: str) -> None:
    """Raises an AssertionError with this message where the condition does not hold."""
    if not condition:
        raise AssertionError(message)


def same(got: Tensor, want: Tensor, what: str) -> None:
    """Raises where two tensors differ by more than rounding."""
    require(
        got.shape == want.shape,
        f"{what}: shapes {tuple(got.shape)} and {tuple(want.shape)} differ.",
    )
    scale = float(want.abs().max()) if want.numel() else 0.0
    slack = 200 * torch.finfo(want.dtype).eps * max(scale, 1e-30)
    gap = float((got - want).abs().max()) if want.numel() else 0.0
    require(
        gap <= slack + 1e-14,
        f"{what} differ by {gap:.3g} (their size is {scale:.3g}).",
    )


def toy_problem() -> Problem:
    """Four smooth losses of two parameters."""
    return torus_problem()


def toy_oracle() -> GradientOracle:
    """Mini-batches of two of the toy problem: sigma is not 1, and there are few atoms."""
    return GradientOracle(toy_problem(), MinibatchNoise(2))


def states_of(optimizer: Optimizer, oracle: GradientOracle) -> list[State]:
    """Three states that the optimizer comes to."""
    problem = oracle.problem
    theta0 = torch.linspace(0.7, -1.1, problem.dim, dtype=problem.dtype, device=problem.device)
    return [
        warm_up(optimizer, oracle, theta0 * (1 + 0.3 * i), steps=WARM_UP, seed=i) for i in range(3)
    ]


def spread_states(visited: Sequence[State], problem: Problem) -> list[State]:
    """States all over the range of theta, with the other components of visited ones.

    A parameter's range is its period where the problem has one, and three times the visited range
    where not; the points fill the box evenly (Sobol).
    """
    thetas = torch.stack([state.theta for state in visited])
    low, width = thetas.amin(0), (thetas.amax(0) - thetas.amin(0)).clamp_min(WIDTH)
    periods = getattr(problem, "periods", (None,) * problem.dim)
    sides = torch.tensor([float(p or 3 * w) for p, w in zip(periods, width, strict=True)])
    unit = torch.quasirandom.SobolEngine(problem.dim).draw(SPREAD)
    points = (low - width) + unit.to(thetas) * sides.to(thetas)
    donors = [visited[i % len(visited)] for i in range(SPREAD)]
    return [
        State(donor.step, **{**donor.components, "theta": point})
        for donor, point in zip(donors, points, strict=True)
    ]
