"""The compiled form gives the plain form's numbers, and says what is missing where it cannot."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.compiling import compiled
from sdeverify.problems.module_problem import ModuleProblem
from sdeverify.rng import Block, Streams
from sdeverify.state import State
from sdeverify.steppers.euler_maruyama import EulerMaruyama
from sdeverify.steppers.increments import FullBatch

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
SAMPLES = 6
NETS = {
    "dense chain": lambda: nn.Sequential(
        nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)
    ),
    "layerwise": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12, 3),
    ),
    "per sample": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 4)), nn.Conv1d(4, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    ),
}  # fmt: skip
needs_a_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)


def problems(name: str) -> tuple[ModuleProblem, ModuleProblem, torch.Tensor]:
    torch.manual_seed(0)
    net = NETS[name]().double()
    x, y = torch.randn(SAMPLES, 16).double(), torch.randint(3, (SAMPLES,))
    loss = nn.CrossEntropyLoss(reduction="none")
    plain = sv.problem_from_module(net, x, y, loss)
    fast = sv.problem_from_module(net, x, y, loss, compiled=True)
    return plain, fast, sv.flatten_parameters(net)


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.parametrize("name", NETS)
def test_compiled_gradients_and_moments_equal_the_plain_ones(name: str) -> None:
    plain, fast, theta0 = problems(name)
    assert plain.moments_route == fast.moments_route == name
    theta = theta0 + 0.1 * torch.randn(2, plain.dim).double()
    weights = torch.randn(2, SAMPLES).double()
    torch.testing.assert_close(
        fast.weighted_gradient(theta, weights), plain.weighted_gradient(theta, weights)
    )
    for shift in (0.0, 0.2):  # the second time without the comparison of the first use
        got = fast.weighted_moments(theta + shift, weights)
        want = plain.weighted_moments(theta + shift, weights)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
@needs_a_compiler
def test_a_compiled_euler_maruyama_path_is_the_plain_one() -> None:
    plain, fast, theta0 = problems("dense chain")

    def end(problem: ModuleProblem) -> torch.Tensor:
        sde = sv.derive(sv.SGD(learning_rate=0.1), sv.GradientOracle(problem, sv.MinibatchNoise(2)))
        stepper = EulerMaruyama(sde, (1, 2), FullBatch())
        streams = Streams(0, "brownian", [Block(0, 3)])
        last = list(stepper.run(State(0, theta=theta0).expand(3), 4, streams))[-1]
        return torch.stack([state.theta for state in last])

    torch.testing.assert_close(end(fast), end(plain))


def test_without_a_compiler_the_problem_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(sv.UnsupportedError, match=r"no-such-compiler.*compiled=False"):
        problems("dense chain")


def test_what_cannot_be_traced_is_refused() -> None:
    def forked(theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (theta.sin() if theta.sum() > 0 else theta.cos(),)

    with pytest.raises(sv.UnsupportedError, match="cannot be compiled"):
        compiled(forked, [torch.ones(3)])
