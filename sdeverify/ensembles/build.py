"""The jobs of `simulate` and `solve`: arguments are checked here, before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdeverify.analysis.datasets.identity import IDENTITY
from sdeverify.base.arguments import recorded_steps, whole, wholes
from sdeverify.base.rng import Block, Blocks, Streams
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.base.versions import versions
from sdeverify.ensembles.identity import MANY, identity_of
from sdeverify.ensembles.job import Job, Side, Work
from sdeverify.ensembles.memory import chain_footprint, path_footprint
from sdeverify.ensembles.observables import Observable, checked_observables, measured
from sdeverify.ensembles.options import Run
from sdeverify.ensembles.plan import plan, precision_of
from sdeverify.ensembles.steppers.discrete import DiscreteChain
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch, Subsampled
from sdeverify.ensembles.steppers.torchsde import Sdeint
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.problems.problem import Problem
from sdeverify.sdes.description import constant_text
from sdeverify.sdes.sde import GradientSDE

NORMALS = torch.float32
"""The precision in which a path's increments are drawn, whatever the state's; see `Streams`."""


def chain_job(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    steps: float | Sequence[float],
    observables: Observable | Sequence[Observable],
    run: Run,
) -> Job:
    """The work of `simulate`, refused here where the arguments are wrong."""
    check_optimizer(optimizer)
    point, recorded = start_point(start, oracle.problem), recorded_steps(steps)
    observables = checked_observables(observables)
    chain = DiscreteChain(optimizer, oracle)
    for step in recorded:
        optimizer.own_step(point.step + step)
    own = optimizer.from_sde(point.expand(1), oracle)

    problem = oracle.problem

    def trajectory(
        block: Block, at: Sequence[float], wanted: Sequence[Observable]
    ) -> Iterator[NDArray[np.float64]]:
        streams = Streams(run.seed, "gradients", [block], problem.device, problem.dtype)
        for state in chain.run(point.expand(block.wanted), at, streams):
            yield measured(wanted, state)

    own_steps = recorded[-1] * optimizer.refinement
    work = Work(
        own_steps * oracle.noise.gradient_samples(problem),
        1 / optimizer.refinement,
        problem,
        point.theta,
    )
    return Job(
        side="chain",
        trajectory=trajectory,
        steps=recorded,
        start_step=point.step,
        observables=observables,
        blocks=Blocks(run.replicas, run.block_size),
        attrs={
            **provenance(oracle, point, run.seed, run.replicas, run.block_size),
            "name": optimizer.name,
            "time_per_step": optimizer.time_per_step,
            "time_per_level1_step": optimizer.time_per_step * optimizer.refinement,
            "refinement": float(optimizer.refinement),
            "hyperparameters": as_text(optimizer.hyperparameters),
        },
        footprint=chain_footprint(oracle, len(own)),
        work=work,
    ).within(run.memory)


def path_job(
    sde: GradientSDE,
    start: State | Tensor,
    steps: float | Sequence[float],
    observables: Observable | Sequence[Observable],
    run: Run,
    *,
    substeps: int | Sequence[int] | None = None,
    subsample: int | None = 0,
    one_gradient: bool = False,
    method: str | None = None,
    side: Side = "path",
) -> Job:
    """The work of `solve`, refused here where the arguments are wrong."""
    check_sde(sde)
    problem = sde.oracle.problem
    point, recorded = start_point(start, problem), recorded_steps(steps)
    observables = checked_observables(observables)
    _check_path(sde, point, recorded)
    if method is not None and not one_gradient and subsample is None:
        subsample = 0
    fine, subsample = _planned(sde, run.replicas, substeps, subsample, one_gradient)
    if subsample and one_gradient:
        raise InvalidInputError("subsample and one_gradient exclude each other; got both.")
    if method is not None and (subsample or one_gradient):
        raise InvalidInputError(
            "torchsde takes drift and diffusion of all samples at each step; got method="
            f"{method!r} with {'one_gradient' if one_gradient else f'subsample={subsample}'}. "
            "Leave out the one or the other."
        )
    noiseless = sde.intensity == 0
    size = min(2, run.replicas) if noiseless else run.replicas
    drawn = 0 if noiseless else subsample
    stepper = _stepper(sde, fine, drawn, one_gradient, method)

    def trajectory(
        block: Block, at: Sequence[float], wanted: Sequence[Observable]
    ) -> Iterator[NDArray[np.float64]]:
        streams = Streams(run.seed, "brownian", [block], problem.device, NORMALS)
        path = stepper.run(point.expand(block.wanted), int(max(at)), streams)
        for k, states in enumerate(path):
            if k in at:
                yield np.stack([measured(wanted, s) for s in states], 1)

    moments = sde.uses_moments and not one_gradient
    gradients = len(fine) * fine[-1] * drawn if drawn else sum(fine) * problem.samples
    work = Work(recorded[-1] * gradients, 1.0, problem, point.theta, moments)
    return Job(
        side=side,
        trajectory=trajectory,
        steps=recorded,
        start_step=point.step,
        observables=observables,
        blocks=Blocks(size, run.block_size),
        substeps=fine,
        attrs={
            **provenance(sde.oracle, point, run.seed, size, run.block_size),
            "name": sde.description.name,
            "model": sde.model,
            "time_per_step": sde.time_per_level1_step,
            "time_per_level1_step": sde.time_per_level1_step,
            "refinement": 1.0,
            "subsample": drawn,
            "one_gradient": int(one_gradient),
            "normals": str(NORMALS).removeprefix("torch."),
            "hyperparameters": as_text(sde.constants),
            **({} if method is None else {"method": f"torchsde, {method}"}),
        },
        footprint=path_footprint(sde, fine, subsample),
        work=work,
    ).within(run.memory)


def _stepper(
    sde: GradientSDE,
    substeps: tuple[int, ...],
    subsample: int,
    one_gradient: bool,
    method: str | None,
) -> EulerMaruyama | Sdeint:
    if method is not None:
        return Sdeint(sde, substeps, method)
    how = Subsampled(subsample) if subsample else FullBatch(one_gradient)
    return EulerMaruyama(sde, substeps, how)


def check_optimizer(optimizer: object) -> None:
    """Refuses what is no optimizer of this package.

    Raises:
        InvalidInputError: with what makes one of it.
    """
    if isinstance(optimizer, Optimizer):
        return
    got = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidInputError(
            f"an optimizer in the form of sdeverify is wanted; got torch's {got}. Take "
            "sv.optimizer_from_torch(optimizer, problem), and sv.start_from_torch for the start."
        )
    raise InvalidInputError(
        f"an optimizer is wanted, sv.SGD(learning_rate=0.1) say; got an object of type {got}."
    )


def check_sde(sde: object) -> None:
    """Refuses what is no SDE.

    Raises:
        InvalidInputError: with what makes one of it.
    """
    if isinstance(sde, GradientSDE):
        return
    got = type(sde).__name__
    if isinstance(sde, Optimizer):
        raise InvalidInputError(
            f"an SDE is wanted; got the optimizer {got}. Take sv.derive(optimizer, oracle)."
        )
    if isinstance(sde, torch.optim.Optimizer):
        raise InvalidInputError(
            f"an SDE is wanted; got torch's {got}. Take "
            "sv.derive(sv.optimizer_from_torch(optimizer, problem), oracle)."
        )
    if isinstance(sde, type) and issubclass(sde, GradientSDE):
        got = f"class {sde.__name__}"
    raise InvalidInputError(
        f"an SDE is wanted, as sv.derive(optimizer, oracle) gives it; got an object of type {got}."
    )


def _planned(
    sde: GradientSDE,
    replicas: int,
    substeps: int | Sequence[int] | None,
    subsample: int | None,
    one_gradient: bool,
) -> tuple[tuple[int, ...], int]:
    """Step sizes and samples as asked for, and as planned where they are left open."""
    if subsample is not None:
        subsample = whole(subsample, "subsample")
    elif one_gradient:
        subsample = 0
    if substeps is not None:
        substeps = wholes(substeps, "substeps")
    if substeps is not None and subsample is not None:
        return tuple(substeps), subsample
    cheapest = plan(sde, precision_of(max(1, replicas)), substeps=substeps)
    return cheapest.substeps, cheapest.subsample if subsample is None else subsample


def _check_path(sde: GradientSDE, point: State, recorded: Sequence[float]) -> None:
    if any(s != round(s) for s in recorded):
        raise InvalidInputError(f"solve records at whole level-1 steps; got {list(recorded)}.")
    missing = [name for name in sde.components if name not in point.components]
    if missing:
        raise InvalidInputError(
            f"the SDE starts from {sde.components}; the start has no {', '.join(missing)}. Use "
            "warm_up(...), start_from_torch(...) or State(step, ...)."
        )


def start_point(start: State | Tensor, problem: Problem) -> State:
    """The start as a State of the problem's kind."""
    point = start if isinstance(start, State) else State(0, theta=start)
    theta = point.theta
    if theta.shape not in {(problem.dim,), (1, problem.dim)}:
        raise InvalidInputError(
            f"the start is one point of {problem.dim} parameters, shape ({problem.dim},); got "
            f"{tuple(theta.shape)}."
        )
    moved = {
        name: value.detach().to(dtype=problem.dtype, device=problem.device)
        for name, value in point.components.items()
    }
    return State(point.step, **moved)


def as_text(values: Any) -> str:
    """Numbers by name as JSON, in full precision."""
    return json.dumps(
        {k: v if isinstance(v, bool) else constant_text(v) for k, v in values.items()}
    )


def provenance(
    oracle: GradientOracle, start: State, seed: int, replicas: int, block_size: int
) -> dict[str, Any]:
    """What an ensemble says of its problem, its start and how it was drawn."""
    problem = oracle.problem
    identity = identity_of(problem, start)
    loss = json.loads(identity)["loss"][0]
    if problem.samples <= MANY:
        loss = float(problem.loss(start.expand(1).theta))
    return {
        IDENTITY: identity,
        "seed": seed,
        "replicas": replicas,
        "block_size": block_size,
        "device": str(problem.device),
        "dtype": str(problem.dtype).removeprefix("torch."),
        "noise": oracle.noise.describe(problem),
        "noise_scale": oracle.scale,
        "start_step": float(start.step),
        "start_loss": f"{loss:.5e}",
        "start_norms": json.dumps(
            {k: f"{float(v.double().norm()):.5e}" for k, v in start.components.items()}
        ),
        "parameters": problem.dim,
        "samples": problem.samples,
        "versions": json.dumps(versions()),
    }
