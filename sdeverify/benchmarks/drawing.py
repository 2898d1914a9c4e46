"""Many replicas of few dimensions: what integration adds to the bare drawing of the normals."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torchsde import sdeint

from sdeverify.base.compiling import has_compiler
from sdeverify.base.rng import Block, Streams
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section, Work, interleaved
from sdeverify.ensembles.build import NORMALS
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch
from sdeverify.ensembles.steppers.torchsde import Sdeint
from sdeverify.noise import GaussianNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD
from sdeverify.optimizers.derive import derive
from sdeverify.problems.library import AnalyticProblem
from sdeverify.sdes import GradientSDE

REPLICAS = 10_000
DIMENSIONS = 8
STEPS, TURN = 1000, 100
RATE = 1e-3
SIGMA = 0.5

ALONE, OURS = "torchsde alone", "torchsde, our Brownian motion"
DOUBLE, SOLVE = "our loop, normals in the state's precision", "our loop, as sv.solve runs it"
COMPILED = "the same, compiled"
COLUMNS = (ALONE, OURS, DOUBLE, SOLVE, COMPILED)


def drawing_section(effort: Effort) -> Section:
    """float32 and float64."""
    steps = TURN if effort.quick else STEPS
    return Section(
        title=f"{REPLICAS:,} replicas × {DIMENSIONS} dimensions × {steps:,} steps",
        unit="the bare drawing of the normals, in place, in the state's precision; measured in "
        f"turns of {TURN} steps, torchsde alone over all of them, since its steps grow dearer",
        headings=("state",),
        columns=COLUMNS,
        cases=tuple(
            Case((str(dtype).removeprefix("torch."),), partial(_measured, dtype, steps, effort))
            for dtype in (torch.float32, torch.float64)
        ),
        goals={"float32": {COMPILED: Goal(1.25)}, "float64": {COMPILED: Goal(0.3)}},
    )


def ornstein_uhlenbeck(dtype: torch.dtype, device: str, compiled: bool = False) -> GradientSDE:
    """d theta = -theta dt + s dW, as the SDE of SGD on a parabola with Gaussian noise."""
    problem = AnalyticProblem(
        values=lambda theta: theta.square().sum(1, keepdim=True) / 2,
        gradients=lambda theta: theta.unsqueeze(1),
        hessian=lambda theta: torch.eye(DIMENSIONS).to(theta).expand(len(theta), -1, -1),
        dim=DIMENSIONS,
        samples=1,
        periods=(None,) * DIMENSIONS,
        dtype=dtype,
        device=torch.device(device),
        compiled=compiled,
    )
    sizes = torch.full((DIMENSIONS,), SIGMA, dtype=dtype, device=device)
    return derive(SGD(learning_rate=RATE), GradientOracle(problem, GaussianNoise(sizes)))


class PlainModel:
    """The same equation as a user of torchsde writes it, in step time."""

    noise_type = "diagonal"
    sde_type = "ito"

    def f(self, t: Any, y: Tensor) -> Tensor:
        """The drift over a step."""
        return -RATE * y

    def g(self, t: Any, y: Tensor) -> Tensor:
        """The diffusion over a step."""
        return torch.full_like(y, RATE * SIGMA)


def bare(dtype: torch.dtype, steps: int, device: str = "cpu") -> None:
    """Draws the normals of all steps and does nothing with them."""
    generator = torch.Generator(device).manual_seed(0)
    buffer = torch.empty(REPLICAS, DIMENSIONS, dtype=dtype, device=device)
    for _ in range(steps):
        buffer.normal_(generator=generator)


def our_loop(
    dtype: torch.dtype,
    steps: int,
    device: str = "cpu",
    normals: torch.dtype = NORMALS,
    compiled: bool = False,
    **options: Any,
) -> Work:
    """The whole ensemble, step by step, without observables; `options` are the stepper's."""
    sde = ornstein_uhlenbeck(dtype, device, compiled)
    stepper = EulerMaruyama(sde, (1,), FullBatch(), **options)
    start = _start(dtype, device)

    def work() -> None:
        for _ in stepper.run(start, steps, _streams(normals, device)):
            pass

    return work


def _measured(dtype: torch.dtype, steps: int, effort: Effort) -> list[float | None]:
    device = effort.device
    sde, start = ornstein_uhlenbeck(dtype, device), _start(dtype, device)
    end = torch.tensor([0.0, steps], dtype=torch.float64)
    streams = partial(_streams, dtype, device)
    works: dict[str, Work] = {
        "bare": partial(bare, dtype, TURN, device),
        OURS: lambda: list(Sdeint(sde, (TURN,)).run(start, 1, streams())),
        SOLVE: our_loop(dtype, TURN, device),
    }
    if has_compiler(torch.device(device)):
        works[COMPILED] = our_loop(dtype, TURN, device, compiled=True)
    if dtype != NORMALS:
        works[DOUBLE] = our_loop(dtype, TURN, device, dtype)
    alone: dict[str, Work] = {
        "bare": partial(bare, dtype, steps, device),
        ALONE: lambda: sdeint(PlainModel(), start.theta, end, dt=1.0, method="euler"),
    }
    ratios = _over_bare(works, effort) | _over_bare(alone, replace(effort, patience=0.0))
    return [ratios.get(column) for column in COLUMNS]


def _over_bare(works: dict[str, Work], effort: Effort) -> dict[str, float]:
    seconds = interleaved(works, effort)
    return {name: value / seconds["bare"] for name, value in seconds.items()}


def _start(dtype: torch.dtype, device: str) -> State:
    return State(0, theta=torch.zeros(REPLICAS, DIMENSIONS, dtype=dtype, device=device))


def _streams(normals: torch.dtype, device: str) -> Streams:
    return Streams(0, "brownian", [Block(0, REPLICAS)], device, normals)
