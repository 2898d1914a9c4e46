"""`simulate` the discrete optimizer and `solve` its SDE: ensembles, block by block."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdeverify.errors import InvalidInputError, SdeverifyError
from sdeverify.moments import BlockResult, block_moments, cross_block_moments
from sdeverify.observables import Observable
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.oracle import GradientOracle
from sdeverify.problems.problem import Problem
from sdeverify.rng import Block, Streams, blocks_of
from sdeverify.schema import chain_dataset, path_dataset
from sdeverify.sdes.description import number
from sdeverify.sdes.sde import GradientSDE
from sdeverify.shapes import Tensor
from sdeverify.state import State
from sdeverify.steppers.discrete import Chain
from sdeverify.steppers.euler_maruyama import EulerMaruyama
from sdeverify.steppers.increments import FullBatch, Increments, Subsampled

BLOCK_SIZE = 128


class Sink(Protocol):
    """Where blocks go as they come; `load` gives the blocks of an earlier, stopped run."""

    def load(self) -> dict[int, BlockResult]: ...

    def save(self, block: int, result: BlockResult) -> None: ...


@dataclass(frozen=True)
class Job:
    """An ensemble that is computed block by block; what a block gives depends on nothing else.

    Where it `may_diverge`, moments that are not finite are a finding and not refused.
    """

    run_block: Callable[[Block], NDArray[np.float64]]
    steps: tuple[float, ...]
    start_step: float
    observables: Sequence[Observable]
    blocks: Sequence[Block]
    crossed: bool
    substeps: tuple[int, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    may_diverge: bool = False

    def missing(self, sink: Sink | None) -> list[Block]:
        """The blocks that are not in the sink yet."""
        there = sink.load() if sink is not None else {}
        return [block for block in self.blocks if block.index not in there]

    def compute(self, block: Block, keep: bool) -> BlockResult:
        """One block's result; refused where the dynamics diverged."""
        values = self.run_block(block)
        if not (self.may_diverge or np.isfinite(values).all()):
            raise SdeverifyError(self._divergence(values))
        with np.errstate(over="ignore", invalid="ignore"):
            moments = cross_block_moments(values) if self.crossed else block_moments(values)
        return BlockResult(moments, values if keep else None)

    def dataset(self, results: dict[int, BlockResult]) -> xr.Dataset:
        """The ensemble's dataset from all its blocks."""
        ordered = [results[block.index] for block in self.blocks]
        absolute = np.asarray([self.start_step + s for s in self.steps])
        kept = [r.values for r in ordered if r.values is not None]
        common: dict[str, Any] = {
            "block_count": [r.moments.count for r in ordered],
            "block_mean": np.stack([r.moments.mean for r in ordered]),
            "block_comoment": np.stack([r.moments.comoment for r in ordered]),
            "step": absolute,
            "time": absolute * self.attrs["time_per_level1_step"],
            "observables": [o.name for o in self.observables],
            "blocks": [block.index for block in self.blocks],
            "attrs": self.attrs,
            "replicas": np.concatenate(kept) if len(kept) == len(ordered) else None,
        }
        if self.crossed:
            return path_dataset(**common, substeps=self.substeps)
        return chain_dataset(**common)

    def _divergence(self, values: NDArray[np.float64]) -> str:
        bad = ~np.isfinite(values).reshape(len(values), -1, *values.shape[-2:]).all(axis=(0, 1))
        step, observable = (int(i) for i in np.argwhere(bad)[0])
        return (
            f"{self.attrs['name']}: observable '{self.observables[observable].name}' is not finite "
            f"at step {self.start_step + self.steps[step]:g}. The dynamics diverged: use a smaller "
            "learning rate, a larger epsilon, more substeps or a longer warm-up."
        )


def run_job(
    job: Job,
    sink: Sink | None = None,
    keep_replicas: bool = False,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Computes the blocks that are missing, saves each as it comes, and gives the dataset.

    Args:
        progress: called with the number of replicas after each block, those loaded included.
    """
    results = sink.load() if sink is not None else {}
    for block in job.blocks:
        if block.index not in results:
            results[block.index] = job.compute(block, keep_replicas)
            if sink is not None:
                sink.save(block.index, results[block.index])
        if progress is not None:
            progress(block.size)
    return job.dataset(results)


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

    Returns:
        A dataset over (step, observable), see `sdeverify.schema`.

    Raises:
        InvalidInputError: a bad argument, before any work.
        SdeverifyError: the dynamics diverged.
    """
    job = chain_job(optimizer, oracle, start, steps, observables, replicas, seed, block_size)
    return run_job(job, sink, keep_replicas, progress)


def solve(
    sde: GradientSDE,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    replicas: int = 1024,
    substeps: Sequence[int] = (2, 4),
    seed: int = 0,
    subsample: int = 0,
    one_gradient: bool = False,
    block_size: int = BLOCK_SIZE,
    keep_replicas: bool = False,
    sink: Sink | None = None,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """An ensemble of the SDE by Euler-Maruyama with the exact covariance of the gradient noise.

    Args:
        substeps: integrator steps in one level-1 step; several step sizes share one Brownian path
            and are extrapolated to dt = 0.
        subsample: 0 for all samples at each step; n >= 2 for a fresh subset of n.
        one_gradient: the form of `FullBatch` in which an adaptive step costs one gradient.
        start, steps, observables, replicas, seed, block_size, keep_replicas: as in `simulate`;
            here `steps` are whole numbers.

    Returns:
        A dataset over (substeps, step, observable), see `sdeverify.schema`.
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
    return run_job(job, sink, keep_replicas, progress)


def chain_job(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    replicas: int,
    seed: int,
    block_size: int = BLOCK_SIZE,
) -> Job:
    """The work of `simulate`, refused here where the arguments are wrong."""
    point, recorded = _checked(start, steps, observables, replicas, oracle.problem)
    chain = Chain(optimizer, oracle)
    for step in recorded:
        optimizer.own_step(point.step + step)
    optimizer.from_sde(point.expand(1), oracle)

    def run_block(block: Block) -> NDArray[np.float64]:
        streams = Streams(seed, "gradients", [block], oracle.problem.device, oracle.problem.dtype)
        states = chain.run(point.expand(block.size), recorded, streams)
        return np.stack([_measure(observables, state) for state in states], axis=1)

    attrs = {
        **_provenance(oracle, point, seed, replicas, block_size),
        "name": optimizer.name,
        "time_per_step": optimizer.time_per_step,
        "time_per_level1_step": optimizer.time_per_step * optimizer.refinement,
        "refinement": float(optimizer.refinement),
        "hyperparameters": _as_text(optimizer.hyperparameters),
    }
    blocks = blocks_of(replicas, block_size)
    return Job(run_block, recorded, point.step, observables, blocks, False, (), attrs)


def path_job(
    sde: GradientSDE,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    replicas: int,
    substeps: Sequence[int],
    seed: int,
    subsample: int = 0,
    one_gradient: bool = False,
    block_size: int = BLOCK_SIZE,
) -> Job:
    """The work of `solve`, refused here where the arguments are wrong."""
    problem = sde.oracle.problem
    point, recorded = _checked(start, steps, observables, replicas, problem)
    if any(s != round(s) for s in recorded):
        raise InvalidInputError(f"solve records at whole level-1 steps; got {list(recorded)}.")
    if subsample and one_gradient:
        raise InvalidInputError("subsample and one_gradient exclude each other; got both.")
    missing = [name for name in sde.components if name not in point.components]
    if missing:
        raise InvalidInputError(
            f"the SDE starts from {sde.components}; the start has no {', '.join(missing)}. Use "
            "warm_up(...), start_from_torch(...) or State(step, ...)."
        )
    noiseless = sde.intensity == 0
    size = min(2, replicas) if noiseless else replicas
    how: Increments = FullBatch(one_gradient)
    if subsample and not noiseless:
        how = Subsampled(subsample)
    stepper = EulerMaruyama(sde, tuple(substeps), how)
    last = int(max(recorded))

    def run_block(block: Block) -> NDArray[np.float64]:
        streams = Streams(seed, "brownian", [block], problem.device, problem.dtype)
        path = stepper.run(point.expand(block.size), last, streams)
        wanted = (states for k, states in enumerate(path) if k in recorded)
        return np.stack(
            [np.stack([_measure(observables, s) for s in states], 1) for states in wanted], axis=2
        )

    attrs = {
        **_provenance(sde.oracle, point, seed, size, block_size),
        "name": sde.description.name,
        "model": type(sde).__name__,
        "time_per_step": sde.time_per_level1_step,
        "time_per_level1_step": sde.time_per_level1_step,
        "refinement": 1.0,
        "subsample": 0 if noiseless else subsample,
        "one_gradient": int(one_gradient),
        "hyperparameters": _as_text(sde.constants),
    }
    blocks = blocks_of(size, block_size)
    return Job(run_block, recorded, point.step, observables, blocks, True, tuple(substeps), attrs)


def recorded_steps(steps: int | Sequence[float]) -> tuple[float, ...]:
    """The steps to record, from 0 on: about ten for a number, those of a sequence."""
    if isinstance(steps, int):
        if steps < 1:
            raise InvalidInputError(f"steps must be >= 1; got {steps}.")
        return tuple(float(s) for s in np.unique(np.linspace(0, steps, 11).round()))
    listed = sorted({0.0, *(float(s) for s in steps)})
    if len(listed) < 2 or listed[0] < 0:
        raise InvalidInputError(f"steps are counted forward from the start; got {list(steps)}.")
    return tuple(listed)


def _checked(
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    replicas: int,
    problem: Problem,
) -> tuple[State, tuple[float, ...]]:
    point = start if isinstance(start, State) else State(0, theta=start)
    theta = point.theta
    if theta.shape not in {(problem.dim,), (1, problem.dim)}:
        raise InvalidInputError(
            f"the start is one point of {problem.dim} parameters, shape ({problem.dim},); got "
            f"{tuple(theta.shape)}."
        )
    if replicas < 2:
        raise InvalidInputError(f"an ensemble needs at least 2 replicas; got {replicas}.")
    names = [o.name for o in observables]
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(f"observables need different names, at least one; got {names}.")
    moved = {
        name: value.detach().to(dtype=problem.dtype, device=problem.device)
        for name, value in point.components.items()
    }
    return State(point.step, **moved), recorded_steps(steps)


def _measure(observables: Sequence[Observable], state: State) -> NDArray[np.float64]:
    columns = [o(state).detach().to("cpu", torch.float64).numpy() for o in observables]
    return np.stack(columns, axis=-1)


def _as_text(values: Any) -> str:
    return json.dumps({k: v if isinstance(v, bool) else number(v) for k, v in values.items()})


def _provenance(
    oracle: GradientOracle, start: State, seed: int, replicas: int, block_size: int
) -> dict[str, Any]:
    problem = oracle.problem
    point = start.expand(1).theta
    return {
        "seed": seed,
        "replicas": replicas,
        "block_size": block_size,
        "device": str(problem.device),
        "dtype": str(problem.dtype).removeprefix("torch."),
        "noise": oracle.noise.describe(problem),
        "noise_scale": oracle.scale,
        "start_step": float(start.step),
        "start_loss": f"{float(problem.loss(point)):.5e}",
        "start_norms": json.dumps(
            {k: f"{float(v.double().norm()):.5e}" for k, v in start.components.items()}
        ),
        "parameters": problem.dim,
        "samples": problem.samples,
        "versions": json.dumps(versions()),
    }


@cache
def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("sdeverify", "torch", "torchsde", "numpy", "scipy", "xarray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def iterate_states(
    optimizer: Optimizer, oracle: GradientOracle, start: State, steps: int, seed: int
) -> Iterator[State]:
    """The states of one discrete run after 0, 1, ..., `steps` own steps, for warm-ups."""
    problem = oracle.problem
    streams = Streams(seed, "warm-up", [Block(0, 1)], problem.device, problem.dtype)
    count = [k / optimizer.refinement for k in range(steps + 1)]
    yield from Chain(optimizer, oracle).run(start.expand(1), count, streams)
