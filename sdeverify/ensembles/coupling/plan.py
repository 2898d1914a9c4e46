"""How many paths and forks a wanted precision takes, from a pilot."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.allocation import best_allocation
from sdeverify.base.arguments import number
from sdeverify.base.rng import derived_seed
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.coupling.coupled import LEAST, Coupled
from sdeverify.ensembles.coupling.rungs import Measurements
from sdeverify.ensembles.coupling.weak_error import coupled_rungs, own_sde, rung_error
from sdeverify.ensembles.job import run_jobs
from sdeverify.ensembles.observables import Observable
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import Derivation, derive
from sdeverify.optimizers.ladders import Ladder, Rung
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.sde import GradientSDE

HALF_WIDTH = 1.96
"""Standard errors in half a 95% interval."""
PILOT = 32
"""Paths and trunks of a pilot."""
RESERVE = 1.2
"""Replicas above those that the pilot's variances ask for, which are uncertain themselves."""


@dataclass(frozen=True)
class CoupledPlan:
    """Sizes for a precision; print it to read it.

    Attributes:
        how: for `coupled_weak_error` and `coupled_ladder`.
        precision: half a 95% interval, as a share of an observable's largest weak error over time.
        seconds: what it will take here, from the pilot's time.
        gradients: of one sample, that it will take, and `pilot` those that the pilot took.
        limiting: the observable, and the rung, that ask for the most paths.

    Example:
        >>> cost = {"seconds": 2.0, "gradients": 1e6, "pilot": 1e5}
        >>> plan = sv.CoupledPlan(sv.Coupled(paths=512), precision=0.1, limiting="loss", **cost)
        >>> print(plan)
        512 paths and 32 trunks of forks, for 95% intervals of 10% of the weak errors; ...
    """

    how: Coupled
    precision: float
    seconds: float
    gradients: float
    pilot: float
    limiting: str

    def __str__(self) -> str:
        return (
            f"{self.how.paths} paths and {self.how.trunks} trunks of forks, for 95% intervals of "
            f"{self.precision:.0%} of the weak errors; about {self.seconds:.2g} s. "
            f"Most is asked for by {self.limiting}."
        )


def coupled_plan(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    *,
    ladder: Ladder | None = None,
    sde: type[GradientSDE] | Derivation | None = None,
    precision: float = 0.1,
    how: Coupled | None = None,
    seed: int = 0,
    memory: int | str | None = None,
) -> CoupledPlan:
    """The least work, in gradients, for a precision of all smooth observables, from a pilot.

    The precision is half a 95% interval at the step where the observable's weak error is largest.
    The pilot's numbers are not used again, so that what it chooses does not bias the intervals.

    Args:
        optimizer, oracle, start, steps, observables: as in `coupled_weak_error`.
        ladder: plan for all rungs of it, on common paths; None for the optimizer alone.
        sde: another SDE than the optimizer's own, as in `derive`.
        precision: wanted, as a share of an observable's largest weak error over time.
        how: sizes other than `paths` and `trunks`, which are the pilot's.
        seed, memory: of the pilot, as in `coupled_weak_error`.

    Raises:
        InvalidInputError: a precision that is not positive, or no smooth observable.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> sgd, pilot = sv.SGD(learning_rate=0.5), sv.Coupled(paths=64, trunks=16)
        >>> plan = sv.coupled_plan(sgd, oracle, theta0, [4], loss, precision=0.5, how=pilot)
        >>> plan.how.paths >= 64, plan.limiting
        (True, 'loss at rung 1')
    """
    if not number(precision, "the precision") > 0:
        raise InvalidInputError(
            f"the precision is a positive share of the weak error, 0.1 say; got {precision}."
        )
    rungs = [Rung(1.0, optimizer, oracle)] if ladder is None else ladder.rungs(optimizer, oracle)
    equations = [derive(rung.optimizer, rung.oracle, sde) for rung in rungs]
    pilot = replace(how or Coupled(), paths=PILOT, trunks=PILOT, chains=LEAST)
    own_seed = derived_seed(seed, "pilot")
    work = coupled_rungs(rungs, equations, start, steps, observables, pilot, own_seed, memory)
    if all(work.independent):
        raise InvalidInputError(
            "a plan is for smooth observables of a smooth loss; got none "
            f"({', '.join(work.kinks) or 'Observable(smooth=False)'}). Use simulate, solve and "
            "weak_error, and replicas_needed."
        )
    began = time.perf_counter()
    jobs = work.jobs()
    ensembles = run_jobs({"coupled_0": jobs.pop("coupled_0")})
    path_seconds = (time.perf_counter() - began) / PILOT
    began = time.perf_counter()
    measurements = Measurements(work, {**ensembles, **run_jobs(jobs)})
    errors = [
        rung_error(measurements, i, own_sde(measurements, i), 0.95) for i in range(len(rungs))
    ]
    trunk_seconds = (time.perf_counter() - began) / PILOT
    wanted: list[tuple[int, int]] = []
    labels: list[str] = []
    for i, each in enumerate(errors):
        size = _sizes(errors, i, rungs) * precision / HALF_WIDTH
        costs = [work.path_cost(), work.trunk_cost(i)]
        for o, observable in enumerate(work.observables):
            if work.independent[o]:
                continue
            largest = int(np.abs(each["error"].values[:, o]).argmax())
            sds = [
                math.sqrt(PILOT) * float(each[f"{part}_standard_error"].values[largest, o])
                for part in ("discretisation", "non_gaussianity")
            ]
            split = best_allocation(sds, costs, standard_error=float(size[o])).replicas
            wanted.append((split[0], split[1] if sds[1] > 0 else 0))
            labels.append(f"{observable.name} at rung {rungs[i].label:g}")
    paths, trunks = (max(LEAST, math.ceil(RESERVE * max(n))) for n in zip(*wanted, strict=True))
    seconds = paths * path_seconds + trunks * trunk_seconds
    trunk = sum(work.trunk_cost(i) for i in range(len(rungs)))
    limiting = labels[wanted.index(max(wanted))]
    return CoupledPlan(
        how=replace(how or Coupled(), paths=paths, trunks=trunks),
        precision=precision,
        seconds=seconds,
        gradients=paths * work.path_cost() + trunks * trunk,
        pilot=PILOT * (work.path_cost() + trunk),
        limiting=limiting,
    )


def _sizes(errors: Sequence[xr.Dataset], i: int, rungs: Sequence[Rung]) -> NDArray[Any]:
    """Rung i's largest weak error over time of each observable.

    Where the pilot does not resolve it, what the coarsest rung's would be at order 1.
    """
    own = np.abs(errors[i].error.values).max(0)
    share = rungs[i].time_per_step / rungs[0].time_per_step
    from_coarsest = np.abs(errors[0].error.values).max(0) * share
    largest = np.abs(errors[i].error.values).argmax(0)
    s = np.take_along_axis(errors[i].standard_error.values, largest[None], 0)[0]
    resolved = own > 3 * s
    return np.asarray(np.where(resolved, own, from_coarsest if i else own))
