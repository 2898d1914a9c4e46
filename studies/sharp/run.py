"""What a 10% interval of a network's weak error costs by coupling, and by independent runs.

    python studies/sharp/run.py

Digits (256 samples), a 64-16-10 tanh net. Coupling is planned by `coupled_plan` and measured; its
CPU time is that of pilot and answer. Independent sampling is measured with few replicas, and its
CPU time scaled to an interval of 10% by 1/standard error^2. Costs of coupling, pilot included, are
also given in *pairs*: the gradients of one run of the optimizer at that level and one path of the
SDE by all samples at dt = h and h/2, h the level's own step. All in one process on one core; two or
three minutes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

import sdeverify as sv
from sdeverify.problems.digits import digits_problem

HALF_WIDTH = 1.96
WANTED = 0.1
REPLICAS = 128


class Case(NamedTuple):
    """One run of an optimizer, at one SVAG level."""

    name: str
    optimizer: sv.Optimizer
    batch: int
    warm: int
    steps: Sequence[int]
    level: float


CASES = [
    Case("SGD lr 0.1, B 32", sv.SGD(learning_rate=0.1), 32, 0, [30, 60], 1),
    Case("SGD lr 0.1, B 32", sv.SGD(learning_rate=0.1), 32, 0, [30, 60], 8),
    Case("SGD lr 0.5, B 8", sv.SGD(learning_rate=0.5), 8, 20, [6, 12], 1),
    *(
        Case(
            "Adam lr 0.004, B 8",
            sv.Adam(learning_rate=0.004, beta1=0.93, beta2=0.97, epsilon=1e-2),
            8,
            60,
            [10, 20],
            level,
        )
        for level in (1, 2, 4)
    ),
    Case(
        "RMSprop lr 0.002, B 8",
        sv.RMSprop(learning_rate=0.002, beta=0.97, epsilon=1e-2),
        8,
        60,
        [10, 20],
        1,
    ),
]


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    problem, theta = digits_problem(256, 16)
    observables = [sv.measures.loss(problem), sv.measures.squared_parameter_norm()]
    columns = "run | level | observable | W | by coupling | pairs | by independent runs | ratio | z"
    print(f"| {columns} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        oracle = sv.GradientOracle(problem, sv.MinibatchNoise(case.batch))
        start = sv.warm_up(case.optimizer, oracle, theta, steps=case.warm)
        sde = sv.derive(case.optimizer, oracle)
        rung = sv.svag(case.optimizer, oracle, case.level)
        run = (*rung, start, list(case.steps), observables, sde)
        _print(case, coupling(*run), independent(*run), pair(*rung, case.steps[-1]))


def pair(optimizer: sv.Optimizer, oracle: sv.GradientOracle, steps: int) -> float:
    """Gradients of one sample in an independent pair."""
    own = steps * optimizer.refinement
    return own * (oracle.noise.numbers(oracle.problem) + 3 * oracle.problem.samples)


def coupling(
    optimizer: sv.Optimizer,
    oracle: sv.GradientOracle,
    start: sv.State,
    steps: list[int],
    observables: Sequence[sv.Observable],
    sde: sv.GradientSDE,
) -> tuple[xr.Dataset, float, float]:
    """Errors by the plan's sizes, and the CPU seconds and gradients of pilot and measurement."""
    began = time.process_time()
    plan = sv.coupled_plan(optimizer, oracle, start, steps, observables, precision=WANTED)
    errors = sv.coupled_weak_error(
        optimizer, oracle, sde, start, steps, observables, how=plan.how, seed=1
    )
    return errors, time.process_time() - began, plan.gradients + plan.pilot


def independent(
    optimizer: sv.Optimizer,
    oracle: sv.GradientOracle,
    start: sv.State,
    steps: list[int],
    observables: Sequence[sv.Observable],
    sde: sv.GradientSDE,
) -> tuple[xr.Dataset, float]:
    """Errors by independent runs as `verify` plans them, and their CPU seconds."""
    began = time.process_time()
    options = {"replicas": REPLICAS, "seed": 1}
    chain = sv.simulate(optimizer, oracle, start, steps, observables, **options)
    path = sv.solve(sde, start, steps, observables, substeps=(2, 4), **options)
    return sv.weak_error(chain, path), time.process_time() - began


def _print(
    case: Case,
    coupled: tuple[xr.Dataset, float, float],
    reference: tuple[xr.Dataset, float],
    one_pair: float,
) -> None:
    errors = coupled[0].isel(step=-1)
    other = reference[0].isel(step=-1)
    for name in errors.observable.values:
        w = float(errors.error.sel(observable=name))
        target = WANTED * abs(w) / HALF_WIDTH
        s = [float(d.standard_error.sel(observable=name)) for d in (errors, other)]
        seconds = coupled[1], reference[1] * (s[1] / target) ** 2
        reached = HALF_WIDTH * s[0] / abs(w)
        z = (w - float(other.error.sel(observable=name))) / np.hypot(*s)
        print(
            f"| {case.name} | {case.level:g} | {name} | {w:.3g} ({reached:.0%}) | "
            f"{seconds[0]:.1f} s | {coupled[2] / one_pair:.0f} | {seconds[1]:.0f} s | "
            f"{seconds[1] / seconds[0]:.1f} | {z:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
