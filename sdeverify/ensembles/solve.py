"""`simulate` the discrete optimizer and `solve` its SDE: ensembles, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import xarray as xr

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.forecast import check_time
from sdeverify.ensembles.job import run_job
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.options import EnsembleOptions, Run
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.sde import GradientSDE


def simulate(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    **options: Unpack[EnsembleOptions],
) -> xr.Dataset:
    """An ensemble of the discrete optimizer: means, standard errors and block moments.

    Args:
        optimizer, oracle: of the run, at any SVAG level.
        start: the state that all replicas start from, or theta `(param,)` for plain SGD.
        steps: level-1 steps from the start; a number is recorded at about ten equal distances, a
            sequence at just these steps (0 is always recorded).
        observables: one or several.
        options: `replicas`, `seed`, `block_size`, `keep_replicas`, `sink`, `progress`, `memory`,
            `time_limit`: see `EnsembleOptions`.

    Returns:
        A dataset over (step, observable), see `sdeverify.analysis.datasets.schema`.

    Raises:
        InvalidInputError: a bad argument, or more work than the time limit, before any work.
        SdeverifyError: the dynamics diverged.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> chain = sv.simulate(sv.SGD(learning_rate=0.1), oracle, theta0, 10, loss, replicas=64)
        >>> chain["mean"].dims, float(chain["mean"][-1, 0].round(2))
        (('step', 'observable'), -0.72)
    """
    run = Run.of(options, simulate, EnsembleOptions)
    job = chain_job(optimizer, oracle, start, steps, observables, run)
    check_time({job.side: job}, run.time_limit)
    return run_job(job, run.sink, run.keep_replicas, run.progress)


def solve(
    sde: GradientSDE,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    *,
    substeps: int | Sequence[int] | None = None,
    subsample: int | None = None,
    one_gradient: bool = False,
    method: str | None = None,
    **options: Unpack[EnsembleOptions],
) -> xr.Dataset:
    """An ensemble of the SDE by Euler-Maruyama with the exact covariance of the gradient noise.

    Args:
        sde: from `derive`, or of your own.
        start, steps, observables: as in `simulate`; here `steps` are whole numbers.
        substeps: integrator steps in one level-1 step; several step sizes share one Brownian path
            and are extrapolated to dt = 0. None for those that `plan` gives for so many replicas.
        subsample: 0 for all samples at each step; n >= 2 for a fresh subset of n; None as `plan`.
        one_gradient: the form of `FullBatch` in which an adaptive step costs one gradient.
        method: None for our own loop, Euler-Maruyama in one weighted gradient a step; the name of a
            method, "euler", to integrate through `torchsde.sdeint`, on the same increments and with
            all samples at each step, at about twice the cost.
        options: as in `simulate`.

    Increments are drawn in single precision, whatever the problem's: that costs a fifth of double
    precision and changes the variance of an increment by 5.5e-7 of itself.

    Returns:
        A dataset over (substeps, step, observable), see `sdeverify.analysis.datasets.schema`.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> sde = sv.derive(sv.SGD(learning_rate=0.1), oracle)
        >>> path = sv.solve(sde, theta0, 10, loss, replicas=64, substeps=(1, 2))
        >>> path["mean"].dims, float(path["mean"][-1, -1, 0].round(2))
        (('substeps', 'step', 'observable'), -0.71)
    """
    run = Run.of(options, solve, EnsembleOptions)
    job = path_job(
        sde,
        start,
        steps,
        observables,
        run,
        substeps=substeps,
        subsample=subsample,
        one_gradient=one_gradient,
        method=method,
    )
    check_time({job.side: job}, run.time_limit)
    return run_job(job, run.sink, run.keep_replicas, run.progress)
