"""What single precision does to a weak error: the same seeds in float32 and in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdeverify.base.state import State
from sdeverify.ensembles import measures
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.solve import simulate, solve
from sdeverify.ensembles.warm_up import warm_up
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, Optimizer
from sdeverify.optimizers.derive import derive
from sdeverify.problems.digits import digits_problem
from sdeverify.problems.library import circle_problem
from sdeverify.problems.problem import Problem

Array = NDArray[np.float64]


class Change(NamedTuple):
    """A weak error in float64, and how float32 changes it, replica by replica.

    Both precisions have the same mini-batches and the same Brownian increments, so that the change
    has an error bar of its own, far below the weak error's.
    """

    setting: str
    observable: str
    error: float
    error_se: float
    change: float
    change_se: float

    @property
    def share(self) -> float:
        """The change, at most (two standard errors), in standard errors of the weak error."""
        return (abs(self.change) + 2 * self.change_se) / self.error_se


class Setting(NamedTuple):
    """A run in either precision."""

    name: str
    problem: Callable[[torch.dtype], tuple[Problem, State]]
    batch_size: int
    optimizer: Optimizer
    observables: Callable[[Problem], Sequence[Observable]]
    replicas: int
    subsample: int


def settings(quick: bool = False) -> list[Setting]:
    """SGD and Adam on digits as in the digits study, and SGD on the circle."""
    sgd = SGD(learning_rate=0.25)
    adam = Adam(learning_rate=0.004, beta1=0.93, beta2=0.97, epsilon=1e-2)
    few, many = (32, 256) if quick else (512, 50_000)
    return [
        Setting("digits, SGD", _digits(sgd), 8, sgd, _seen_on_digits, few, 16),
        Setting("digits, Adam", _digits(adam), 8, adam, _seen_on_digits, few, 16),
        Setting("circle, SGD", _circle, 1, SGD(learning_rate=0.1), _seen_on_circle, many, 0),
    ]


def changes(setting: Setting, steps: int = 20) -> Iterator[Change]:
    """Every observable's weak error after `steps` steps, and its change."""
    chains, paths = [], []
    for dtype in (torch.float64, torch.float32):
        problem, start = setting.problem(dtype)
        oracle = GradientOracle(problem, MinibatchNoise(setting.batch_size))
        seen = setting.observables(problem)
        n = setting.replicas
        size = max(128, n // 10)
        chain = simulate(
            setting.optimizer,
            oracle,
            start,
            [steps],
            seen,
            replicas=n,
            block_size=size,
            keep_replicas=True,
        )
        path = solve(
            derive(setting.optimizer, oracle),
            start,
            [steps],
            seen,
            replicas=n,
            subsample=setting.subsample,
            block_size=size,
            keep_replicas=True,
        )
        chains.append(chain["replicas"].values[:, -1])
        paths.append(_extrapolated(path))
    names = [str(name) for name in chain["observable"].values]
    for i, name in enumerate(names):
        double, double_se = _difference(chains[0][:, i], paths[0][:, i])
        moved, moved_se = _difference(
            chains[1][:, i] - chains[0][:, i], paths[1][:, i] - paths[0][:, i]
        )
        yield Change(setting.name, name, double, double_se, moved, moved_se)


@cache
def box_muller_moments(bits: int) -> dict[int, float]:
    """E x^2, E x^4 and E x^6 of Box-Muller normals from uniforms j/2^bits, all j enumerated.

    x = sqrt(-2 log u) cos(2 pi v); the powers of the cosine are the continuous ones exactly, since
    an even grid integrates them.
    """
    exponential = -2 * np.log(np.arange(1, 2**bits + 1) / 2**bits)
    cosines = {2: 1 / 2, 4: 3 / 8, 6: 5 / 16}
    return {p: float(np.mean(exponential ** (p // 2))) * c for p, c in cosines.items()}


def _extrapolated(path: xr.Dataset) -> Array:
    """Every replica at the last step, at dt = 0 by its two step sizes."""
    coarse, fine = (path["replicas"].values[:, i, -1] for i in range(2))
    ratio = float(path["substeps"][1] / path["substeps"][0])
    extrapolated: Array = (ratio * fine - coarse) / (ratio - 1)
    return extrapolated


def _difference(a: Array, b: Array) -> tuple[float, float]:
    """mean a - mean b of two independent samples, with its standard error."""
    variance = a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)
    return float(a.mean() - b.mean()), math.sqrt(float(variance))


def _digits(optimizer: Optimizer) -> Callable[[torch.dtype], tuple[Problem, State]]:
    def built(dtype: torch.dtype) -> tuple[Problem, State]:
        """The start is made once, in double precision, and rounded."""
        problem, theta = digits_problem(256, 16, torch.float64)
        start = warm_up(
            optimizer, GradientOracle(problem, MinibatchNoise(8)), theta, steps=60, seed=0
        )
        rounded = {name: value.float().to(dtype) for name, value in start.components.items()}
        return problem.to(dtype=dtype), State(start.step, **rounded)

    return built


def _seen_on_digits(problem: Problem) -> list[Observable]:
    return [measures.loss(problem), measures.squared_gradient_norm(problem)]


def _circle(dtype: torch.dtype) -> tuple[Problem, State]:
    return circle_problem(dtype), State(0, theta=torch.tensor([2.0], dtype=dtype))


def _seen_on_circle(problem: Problem) -> list[Observable]:
    return [
        Observable("cos x", lambda state: torch.cos(state.theta[:, 0])),
        Observable("sin 2x", lambda state: torch.sin(2 * state.theta[:, 0])),
    ]
