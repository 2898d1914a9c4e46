"""The jobs of `simulate` and `solve`: arguments are checked here, before any work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdeverify.base.arguments import recorded_steps, whole, wholes
from sdeverify.base.rng import Block, Streams, blocks_of
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.base.versions import versions
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.memory import chain_footprint, path_footprint
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.plan import plan, precision_of
from sdeverify.ensembles.steppers.discrete import Chain
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch, Increments, Subsampled
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.problems.problem import Problem
from sdeverify.sdes.description import number
from sdeverify.sdes.sde import GradientSDE

BLOCK_SIZE = 128
NORMALS = torch.float32
"""The precision in which a path's increments are drawn, whatever the state's; see `Streams`."""


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
    point, recorded = _checked(start, steps, observables, oracle.problem)
    replicas, seed, block_size = _counts(replicas, seed, block_size)
    chain = Chain(optimizer, oracle)
    for step in recorded:
        optimizer.own_step(point.step + step)
    own = optimizer.from_sde(point.expand(1), oracle)

    def run_block(block: Block) -> NDArray[np.float64]:
        streams = Streams(seed, "gradients", [block], oracle.problem.device, oracle.problem.dtype)
        states = chain.run(point.expand(block.wanted), recorded, streams)
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
    footprint = chain_footprint(oracle, len(own))
    return Job(run_block, recorded, point.step, observables, blocks, False, (), attrs, footprint)


def path_job(
    sde: GradientSDE,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    replicas: int,
    substeps: Sequence[int] | None,
    seed: int,
    subsample: int | None = 0,
    one_gradient: bool = False,
    block_size: int = BLOCK_SIZE,
) -> Job:
    """The work of `solve`, refused here where the arguments are wrong."""
    problem = sde.oracle.problem
    point, recorded = _checked(start, steps, observables, problem)
    replicas, seed, block_size = _counts(replicas, seed, block_size)
    _check_path(sde, point, recorded)
    substeps, subsample = _planned(sde, replicas, substeps, subsample, one_gradient)
    if subsample and one_gradient:
        raise InvalidInputError("subsample and one_gradient exclude each other; got both.")
    noiseless = sde.intensity == 0
    size = min(2, replicas) if noiseless else replicas
    how: Increments = FullBatch(one_gradient)
    if subsample and not noiseless:
        how = Subsampled(subsample)
    stepper = EulerMaruyama(sde, tuple(substeps), how)
    last = int(max(recorded))

    def run_block(block: Block) -> NDArray[np.float64]:
        streams = Streams(seed, "brownian", [block], problem.device, NORMALS)
        path = stepper.run(point.expand(block.wanted), last, streams)
        wanted = (states for k, states in enumerate(path) if k in recorded)
        return np.stack(
            [np.stack([_measure(observables, s) for s in states], 1) for states in wanted], axis=2
        )

    attrs = {
        **_provenance(sde.oracle, point, seed, size, block_size),
        "name": sde.description.name,
        "model": sde.model,
        "time_per_step": sde.time_per_level1_step,
        "time_per_level1_step": sde.time_per_level1_step,
        "refinement": 1.0,
        "subsample": 0 if noiseless else subsample,
        "one_gradient": int(one_gradient),
        "normals": str(NORMALS).removeprefix("torch."),
        "hyperparameters": _as_text(sde.constants),
    }
    blocks = blocks_of(size, block_size)
    footprint = path_footprint(stepper, subsample)
    fine = tuple(substeps)
    return Job(run_block, recorded, point.step, observables, blocks, True, fine, attrs, footprint)


def _planned(
    sde: GradientSDE,
    replicas: int,
    substeps: Sequence[int] | None,
    subsample: int | None,
    one_gradient: bool,
) -> tuple[Sequence[int], int]:
    """Step sizes and samples as asked for, and as planned where they are left open."""
    if subsample is not None:
        subsample = whole(subsample, "subsample")
    elif one_gradient:
        subsample = 0
    if substeps is not None:
        substeps = wholes(substeps, "substeps")
    if substeps is not None and subsample is not None:
        return substeps, subsample
    found = plan(sde, precision_of(max(1, replicas)), substeps=substeps)
    return found.substeps, found.subsample if subsample is None else subsample


def _check_path(sde: GradientSDE, point: State, recorded: Sequence[float]) -> None:
    if any(s != round(s) for s in recorded):
        raise InvalidInputError(f"solve records at whole level-1 steps; got {list(recorded)}.")
    missing = [name for name in sde.components if name not in point.components]
    if missing:
        raise InvalidInputError(
            f"the SDE starts from {sde.components}; the start has no {', '.join(missing)}. Use "
            "warm_up(...), start_from_torch(...) or State(step, ...)."
        )


def _checked(
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Observable],
    problem: Problem,
) -> tuple[State, tuple[float, ...]]:
    point = start if isinstance(start, State) else State(0, theta=start)
    theta = point.theta
    if theta.shape not in {(problem.dim,), (1, problem.dim)}:
        raise InvalidInputError(
            f"the start is one point of {problem.dim} parameters, shape ({problem.dim},); got "
            f"{tuple(theta.shape)}."
        )
    names = [o.name for o in observables]
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(f"observables need different names, at least one; got {names}.")
    moved = {
        name: value.detach().to(dtype=problem.dtype, device=problem.device)
        for name, value in point.components.items()
    }
    return State(point.step, **moved), recorded_steps(steps)


def _counts(replicas: int, seed: int, block_size: int) -> tuple[int, int, int]:
    if whole(replicas, "replicas") < 2:
        raise InvalidInputError(f"an ensemble needs at least 2 replicas; got {replicas}.")
    if whole(block_size, "block_size") < 1:
        raise InvalidInputError(f"a block has at least 1 replica; got block_size={block_size}.")
    return whole(replicas, "replicas"), whole(seed, "seed"), whole(block_size, "block_size")


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
