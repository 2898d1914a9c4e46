"""The ensembles of one setting: what a replica gives, what it costs, how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

import sdeverify as sv
from sdeverify.analysis.datasets.moments import extrapolation_weights
from sdeverify.ensembles import measures
from sdeverify.problems.problem import Problem

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Setting:
    """What is to be computed: E of the observables under the SDE, `steps` after the start."""

    optimizer: sv.Optimizer
    oracle: sv.GradientOracle
    start: sv.State
    steps: int
    observables: Sequence[sv.Observable]
    batch_size: int

    @property
    def sde(self) -> sv.GradientSDE:
        """The SDE."""
        return sv.derive(self.optimizer, self.oracle)


@dataclass(frozen=True)
class Run:
    """An ensemble.

    Attributes:
        values: at the horizon, `(replica, observable)`, or `(replica, substeps, observable)`.
        substeps: of a path, else empty.
        cost: mini-batch gradients of one replica over the whole horizon, counted.
        seconds: of one replica, of processor time on one thread.
    """

    values: Array
    substeps: tuple[int, ...]
    cost: float
    seconds: float

    def extrapolated(self, *substeps: int) -> Array:
        """Each replica's value at dt = 0 from the given substeps, `(replica, observable)`."""
        places = [self.substeps.index(s) for s in substeps]
        return np.einsum("s,rso->ro", extrapolation_weights(list(substeps)), self.values[:, places])


def level_run(setting: Setting, level: float, replicas: int, seed: int) -> Run:
    """SVAG at a level."""

    def ensemble(at: Setting, size: int, steps: int) -> xr.Dataset:
        optimizer, oracle = sv.svag(at.optimizer, at.oracle, level)
        return sv.simulate(
            optimizer,
            oracle,
            at.start,
            [steps],
            at.observables,
            replicas=size,
            seed=seed,
            keep_replicas=True,
        )

    return _run(setting, ensemble, replicas, ())


def path_run(
    setting: Setting, substeps: tuple[int, ...], replicas: int, seed: int, **form: Any
) -> Run:
    """Euler-Maruyama with several step sizes on one Brownian path; `form` as in `solve`."""

    def ensemble(at: Setting, size: int, steps: int) -> xr.Dataset:
        return sv.solve(
            at.sde, at.start, [steps], at.observables,
            replicas=size, substeps=substeps, seed=seed, **form, keep_replicas=True,
        )  # fmt: skip

    return _run(setting, ensemble, replicas, substeps)


def _run(
    setting: Setting,
    ensemble: Callable[[Setting, int, int], xr.Dataset],
    replicas: int,
    substeps: tuple[int, ...],
) -> Run:
    began = time.process_time()
    found = ensemble(setting, replicas, setting.steps)
    seconds = (time.process_time() - began) / replicas
    values = found["replicas"].transpose("replica", ..., "step", "observable").values[..., -1, :]
    counted = [_gradients(setting, ensemble, steps) for steps in (1, 2)]
    cost = (counted[1] - counted[0]) * setting.steps / setting.batch_size
    return Run(values, substeps, cost, seconds)


def _gradients(
    setting: Setting, ensemble: Callable[[Setting, int, int], xr.Dataset], steps: int
) -> float:
    """Sample gradients of one replica over `steps`."""
    problem = Counting(setting.oracle.problem)
    oracle = replace(setting.oracle, problem=problem)
    ensemble(
        replace(setting, oracle=oracle, observables=[measures.squared_parameter_norm()]), 2, steps
    )
    return problem.count / 2


class Counting(Problem):
    """A problem that counts the sample gradients that are asked of it."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.count = problem, 0
        self.dim, self.samples = problem.dim, problem.samples
        self.dtype, self.device = problem.dtype, problem.device

    def losses(self, theta: Any, indices: Any = None) -> Any:
        return self.problem.losses(theta, indices)

    def weighted_gradient(self, theta: Any, weights: Any, indices: Any = None) -> Any:
        self.count += weights.numel()
        return self.problem.weighted_gradient(theta, weights, indices)

    def weighted_moments(self, theta: Any, weights: Any, indices: Any = None) -> Any:
        self.count += weights.numel()
        return self.problem.weighted_moments(theta, weights, indices)

    def per_sample_gradients(self, theta: Any, indices: Any = None) -> Any:
        raise NotImplementedError("no ensemble here asks for gradients one by one")

    def squared_gradient_drift(self, theta: Any) -> Any:
        raise NotImplementedError("no SDE here is of second order")
