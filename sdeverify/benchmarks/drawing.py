"""Many replicas of few dimensions: what integration adds to the bare drawing of the normals."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torchsde import sdeint

from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section, Work, interleaved
from sdeverify.noise import GaussianNoise
from sdeverify.optimizers import SGD
from sdeverify.oracle import GradientOracle
from sdeverify.problems.library import AnalyticProblem
from sdeverify.rng import Block, Streams
from sdeverify.sdes import GradientSDE, derive
from sdeverify.shapes import Tensor
from sdeverify.state import State
from sdeverify.steppers.euler_maruyama import EulerMaruyama
from sdeverify.steppers.increments import FullBatch
from sdeverify.steppers.torchsde import integrate_with_torchsde

REPLICAS = 10_000
DIMENSIONS = 8
RATE = 1e-3
SIGMA = 0.5

COLUMNS = (
    "torchsde alone",
    "torchsde, our Brownian motion",
    "our loop, normals in the state's precision",
    "our loop, as sv.solve runs it",
)


def drawing_section(effort: Effort) -> Section:
    """float32 and float64."""
    steps = 50 if effort.quick else 1000
    ours = {"float32": Goal(1.25), "float64": Goal(0.3)}
    return Section(
        title=f"{REPLICAS:,} replicas × {DIMENSIONS} dimensions × {steps:,} steps",
        unit="the bare drawing of the normals, in place, in the state's precision",
        headings=("state",),
        columns=COLUMNS,
        cases=tuple(
            Case((str(dtype).removeprefix("torch."),), partial(_measured, dtype, steps, effort))
            for dtype in (torch.float32, torch.float64)
        ),
        goals={name: (None, None, None, goal) for name, goal in ours.items()},
    )


def ornstein_uhlenbeck(dtype: torch.dtype, device: str) -> GradientSDE:
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


def _measured(dtype: torch.dtype, steps: int, effort: Effort) -> list[float | None]:
    device = effort.device
    sde = ornstein_uhlenbeck(dtype, device)
    y0 = torch.zeros(REPLICAS, DIMENSIONS, dtype=dtype, device=device)
    start = State(0, theta=y0)
    end = torch.tensor([0.0, steps], dtype=torch.float64)

    def streams(normals: torch.dtype | None = None) -> Streams:
        return Streams(0, "brownian", [Block(0, REPLICAS)], device, dtype, normals)

    def loop(normals: torch.dtype | None) -> None:
        for _ in EulerMaruyama(sde, (1,), FullBatch()).run(start, steps, streams(normals)):
            pass

    def theirs() -> None:
        sdeint(PlainModel(), y0, end, dt=1.0, method="euler")

    works: dict[str, Work] = {
        "bare": partial(_drawn, y0, steps),
        "theirs": theirs,
        "ours": lambda: integrate_with_torchsde(sde, start, 1, steps, streams()),
        "same": partial(loop, None),
        "solve": partial(loop, torch.float32),
    }
    if dtype == torch.float32:
        del works["same"]
    seconds = interleaved(works, effort)
    bare = seconds.pop("bare")
    return [
        seconds[n] / bare if n in seconds else None for n in ("theirs", "ours", "same", "solve")
    ]


def _drawn(like: Tensor, steps: int) -> None:
    generator = torch.Generator(like.device).manual_seed(0)
    buffer = torch.empty_like(like)
    for _ in range(steps):
        buffer.normal_(generator=generator)
