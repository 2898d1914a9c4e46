"""Exact biases on the circle: the chain's and the integrator's laws pushed forward, no sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ensembles import Setting
from methods import ALL, BOTH, COARSE, LEVELS, ONE_GRADIENT, PAIR, full_name, subset_name

import sdeverify as sv
from sdeverify.analysis.datasets.moments import extrapolation_weights
from sdeverify.analysis.extrapolation import extrapolate_levels
from sdeverify.ensembles.steppers.increments import FullBatch, Increment, Increments, Subsampled
from sdeverify.exact import Periodic, Positive, exact_continuous, exact_discrete
from sdeverify.exact.certify_integrator import Integrator, IntegratorOracle
from sdeverify.problems.library import circle_problem

Array = np.ndarray[Any, Any]

OBSERVABLES = [
    sv.Observable("cos x", lambda s: s.theta[:, 0].cos()),
    sv.Observable("sin 2x", lambda s: (2 * s.theta[:, 0]).sin()),
    sv.Observable("exp cos x", lambda s: s.theta[:, 0].cos().exp()),
]
NODES = {False: 6, True: 5}
"""Gauss-Hermite nodes a normal, by whether the optimizer is adaptive."""


def setting(adaptive: bool) -> Setting:
    """Six losses on the circle, batches of one."""
    oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
    if not adaptive:
        theta = torch.tensor([2.0], dtype=torch.float64)
        return Setting(
            sv.SGD(learning_rate=0.1), oracle, sv.State(0, theta=theta), 20, OBSERVABLES, 1
        )
    optimizer = sv.RMSprop(learning_rate=0.1, beta=0.98, epsilon=0.5)
    point = {"theta": torch.tensor([-0.4]), "u": torch.tensor([0.8])}
    start = sv.State(10, **{name: value.double() for name, value in point.items()})
    return Setting(optimizer, oracle, start, 4, OBSERVABLES, 1)


@dataclass(frozen=True)
class Merged(Subsampled):
    """The coarse step on the Brownian path of a step half as long: two subsets, their normals."""

    def atoms(
        self, sde: Any, theta: torch.Tensor, dt: float, nodes: int
    ) -> tuple[torch.Tensor, Increment]:
        weights, fine = Subsampled(self.samples).atoms(sde, theta[:1], dt / 2, nodes)
        # The order of the two does not matter to the sum over their samples.
        places = torch.combinations(torch.arange(len(weights)), 2, with_replacement=True)
        times = 2.0 - (places[:, 0] == places[:, 1]).to(weights.dtype)
        points = len(theta)
        assert fine.indices is not None
        noise = fine.noise[places].flatten(1).repeat(points, 1)
        indices = fine.indices[places].flatten(1).repeat(points, 1)
        return weights[places].prod(1) * times, Increment(dt, noise, indices)


def exact_biases(at: Setting, done: Any) -> dict[str, tuple[Array, Array]]:
    """E of each method less E of the SDE, `(observable,)`, with a bound on its numerical error."""
    adaptive = at.sde.uses_moments
    common = (at.start, [at.steps], at.observables)
    around: dict[str, Any] = {"theta": Periodic(64 if adaptive else 128, box_points=0)}
    line: dict[str, Any] = {"theta": Periodic(48 if adaptive else 128, box_points=24)}
    sde = exact_continuous(at.sde, *common, around | ({"u": Positive(32)} if adaptive else {}))
    done("exact: SDE")
    narrow = {"u": Positive(16)} if adaptive else {}
    chains = {}
    for level in LEVELS:
        optimizer, oracle = sv.svag(at.optimizer, at.oracle, level)
        chains[level] = exact_discrete(optimizer, oracle, *common, line | narrow)
        done(f"exact: level {level}")
    found = {f"level {level} alone": chains[level] for level in LEVELS}
    for levels in (BOTH, ALL):
        name = "levels " + ", ".join(map(str, levels))
        found[name] = extrapolate_levels([chains[level] for level in levels])
    grid = line | narrow if adaptive else around
    for name, form in _forms(at).items():
        found[name] = _integrated(at, grid, *form)
        done(f"exact: {name}")
    return {
        name: (
            (ds["mean"] - sde["mean"]).isel(step=-1).values,
            (ds["bound"] + sde["bound"]).isel(step=-1).values,
        )
        for name, ds in found.items()
    }


def _forms(at: Setting) -> dict[str, tuple[tuple[int, int], Increments, Increments]]:
    """Substeps, and the increments of the fine and of the coarse step."""
    whole, fine, coarse = FullBatch(), Subsampled(2), Merged(2)
    forms: dict[str, tuple[tuple[int, int], Increments, Increments]] = {
        full_name(PAIR): (PAIR, whole, whole),
        full_name(COARSE): (COARSE, whole, whole),
        subset_name(2, 1, PAIR): (PAIR, fine, coarse),
        subset_name(2, 1, COARSE): (COARSE, fine, coarse),
    }
    if at.sde.uses_moments:
        one = FullBatch(one_gradient=True)
        forms[ONE_GRADIENT] = (PAIR, one, one)
    return forms


def _integrated(
    at: Setting, grid: Any, substeps: tuple[int, int], fine: Increments, coarse: Increments
) -> Any:
    """E of two dt extrapolated, and a bound on its numerical error."""
    nodes = NODES[at.sde.uses_moments]
    sides = [
        exact_discrete(
            Integrator(at.sde, s),
            IntegratorOracle(at.sde, form, at.sde.time_per_level1_step / s, nodes),
            at.start,
            [at.steps],
            at.observables,
            grid,
        )
        for s, form in zip(substeps, (coarse, fine), strict=True)
    ]
    w = extrapolation_weights(list(substeps))
    both = sides[0][["mean"]] * w[0] + sides[1][["mean"]] * w[1]
    return both.assign(bound=abs(w[0]) * sides[0]["bound"] + abs(w[1]) * sides[1]["bound"])
