"""`simulate` the discrete optimizer and `solve` its SDE: ensembles, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xarray as xr

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.build import BLOCK_SIZE, chain_job, path_job
from sdeverify.ensembles.job import Sink, run_job
from sdeverify.ensembles.observables import Observable
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.sde import GradientSDE


def simulate(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    replicas: int = 1024,
    seed: int = 0,
    block_size: int = BLOCK_SIZE,
    keep_replicas: bool = False,
    sink: Sink | None = None,
    progress: Callable[[int], None] | None = None,
    memory: int | str | None = None,
) -> xr.Dataset:
    """An ensemble of the discrete optimizer: means, standard errors and block moments.

    Args:
        start: the state that all replicas start from, or theta `(param,)` for plain SGD.
        steps: level-1 steps from the start; a number is recorded at about ten equal distances, a
            sequence at just these steps (0 is always recorded).
        replicas: size of the ensemble.
        seed: all numbers follow from it, however the work is cut.
        block_size: replicas in a block, the unit of work; part of the seed's meaning.
        keep_replicas: also keep every replica's values.
        memory: what this call may hold beyond what is there already (data, libraries), in bytes or
            as a text, "2GB". Replicas and samples are cut to fit, which changes the results by no
            more than rounding.

    Returns:
        A dataset over (step, observable), see `sdeverify.analysis.datasets.schema`.

    Raises:
        InvalidInputError: a bad argument, before any work.
        SdeverifyError: the dynamics diverged.
    """
    job = chain_job(optimizer, oracle, start, steps, observables, replicas, seed, block_size)
    return run_job(job.within(memory), sink, keep_replicas, progress)


def solve(
    sde: GradientSDE,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    replicas: int = 1024,
    substeps: Sequence[int] | None = None,
    seed: int = 0,
    subsample: int | None = None,
    one_gradient: bool = False,
    block_size: int = BLOCK_SIZE,
    keep_replicas: bool = False,
    sink: Sink | None = None,
    progress: Callable[[int], None] | None = None,
    memory: int | str | None = None,
) -> xr.Dataset:
    """An ensemble of the SDE by Euler-Maruyama with the exact covariance of the gradient noise.

    Args:
        substeps: integrator steps in one level-1 step; several step sizes share one Brownian path
            and are extrapolated to dt = 0. None for those that `plan` gives for so many replicas.
        subsample: 0 for all samples at each step; n >= 2 for a fresh subset of n; None as `plan`.
        one_gradient: the form of `FullBatch` in which an adaptive step costs one gradient.
        start, steps, observables, replicas, seed, block_size, keep_replicas, memory: as in
            `simulate`; here `steps` are whole numbers.

    Increments are drawn in single precision, whatever the problem's: that costs a fifth of double
    precision and changes the variance of an increment by 5.5e-7 of itself.

    Returns:
        A dataset over (substeps, step, observable), see `sdeverify.analysis.datasets.schema`.
    """
    job = path_job(
        sde,
        start,
        steps,
        observables,
        replicas,
        substeps,
        seed,
        subsample,
        one_gradient,
        block_size,
    )
    return run_job(job.within(memory), sink, keep_replicas, progress)
