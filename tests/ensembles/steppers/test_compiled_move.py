"""A compiled step gives the plain step's numbers at every time and learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch

import sdeverify as sv
from sdeverify.base.compiling import has_compiler
from sdeverify.base.rng import Block, Streams
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import Components, State, Time
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch, Increments, Subsampled
from sdeverify.problems.library import torus_problem
from sdeverify.problems.problem import FunctionProblem
from sdeverify.sdes import GradientSDE, SGDFirstOrder

pytestmark = [
    pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="there is no C++ compiler"),
]
REPLICAS, STEPS = 8, 5


def falling(step: float) -> float:
    return 1 / (1 + 0.3 * step)


def rates(step: float) -> torch.Tensor:
    return torch.tensor([1.0, 0.5], dtype=torch.float64) * math.exp(-0.1 * step)


FORMS: dict[str, tuple[sv.Optimizer, Increments]] = {
    "SGD": (sv.SGD(learning_rate=0.2, weight_decay=0.1), FullBatch()),
    "momentum, rates by parameter": (
        sv.SGDMomentum(learning_rate=0.1, momentum=0.8, learning_rate_ratio=rates), FullBatch()
    ),
    "RMSprop, one gradient": (
        sv.RMSprop(learning_rate=0.02, beta=0.9, epsilon=1e-2), FullBatch(one_gradient=True)
    ),
    "Adam, subset": (sv.Adam(learning_rate=0.02, beta2=0.95, epsilon=1e-2), Subsampled(3)),
    "AdamW, falling rate": (
        sv.Adam(
            learning_rate=0.02, beta2=0.95, epsilon=1e-2, decoupled_weight_decay=0.1,
            learning_rate_ratio=falling,
        ),
        FullBatch(),
    ),
}  # fmt: skip
FAST = "AdamW, falling rate"


def sdes(optimizer: sv.Optimizer) -> tuple[GradientSDE, GradientSDE]:
    plain = sv.derive(optimizer, sv.GradientOracle(torus_problem(), sv.MinibatchNoise(2)))
    problem = replace(torus_problem(), compiled=True)
    return plain, replace(plain, oracle=replace(plain.oracle, problem=problem))


def ends(sde: GradientSDE, increments: Increments, step: float = 3.0) -> dict[str, Tensor]:
    theta = torch.tensor([0.4, 1.0], dtype=torch.float64)
    start = State(step, **dict.fromkeys(sde.components, theta)).expand(REPLICAS)
    streams = Streams(0, "brownian", [Block(0, REPLICAS)], dtype=torch.float32)
    *_, (end,) = EulerMaruyama(sde, (2,), increments).run(start, STEPS, streams)
    return end.components


@pytest.mark.parametrize(
    "name", [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in FORMS]
)
def test_a_compiled_path_is_the_plain_one(name: str) -> None:
    optimizer, increments = FORMS[name]
    plain, compiled = (ends(sde, increments) for sde in sdes(optimizer))
    assert plain.keys() == compiled.keys()
    for component, value in plain.items():
        torch.testing.assert_close(compiled[component], value, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_a_compiled_path_on_a_differentiated_function_is_the_plain_one() -> None:
    places = torch.linspace(-1, 1, 7, dtype=torch.float64)
    problem = FunctionProblem(
        lambda x: x[1] * torch.tanh(x[0] - places) + (1 + places) * x.square().sum(), 2, 7
    )
    optimizer = FORMS["Adam, subset"][0]
    sde = sv.derive(optimizer, sv.GradientOracle(problem, sv.MinibatchNoise(2)))
    oracle = replace(sde.oracle, problem=replace(problem, compiled=True))
    for increments in (FullBatch(), Subsampled(3)):
        plain, compiled = ends(sde, increments), ends(replace(sde, oracle=oracle), increments)
        for component, value in plain.items():
            torch.testing.assert_close(compiled[component], value, rtol=1e-11, atol=1e-12)


def test_what_the_plain_step_refuses_the_compiled_one_refuses() -> None:
    _, compiled = sdes(FORMS[FAST][0])
    with pytest.raises(sv.InvalidInputError, match="singular at t = 0"):
        ends(compiled, FullBatch(), step=0.0)


@dataclass(frozen=True)
class Untraceable(SGDFirstOrder):
    """Its drift takes t for a number."""

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        return {"theta": math.exp(-t) * y["theta"]}


def test_an_sde_that_cannot_be_traced_is_moved_as_it_is_with_a_warning() -> None:
    plain, compiled = (Untraceable(sde.oracle, 0.2, 0.1) for sde in sdes(sv.SGD(learning_rate=0.2)))
    want = ends(plain, FullBatch())
    with pytest.warns(UserWarning, match="Untraceable's step is not compiled"):
        got = ends(compiled, FullBatch())
    assert torch.equal(got["theta"], want["theta"])
