"""The compiled form gives the plain form's numbers, and says what is missing where it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.base import compiling
from sdeverify.base.compiling import compiled, has_compiler
from sdeverify.base.rng import Block, Streams
from sdeverify.base.state import State
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch, Increments, Subsampled
from sdeverify.problems.gradients.chain import DenseChain
from sdeverify.problems.gradients.compiled import Compiled
from sdeverify.problems.gradients.microbatches import Microbatches
from sdeverify.problems.gradients.samples import Batch, Data
from sdeverify.problems.module_problem import ModuleProblem

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
    not has_compiler(torch.device("cpu")), reason="there is no C++ compiler"
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
@pytest.mark.parametrize("name", ["dense chain", "layerwise"])
@pytest.mark.parametrize(
    "optimizer",
    [sv.SGD(learning_rate=0.1), sv.Adam(learning_rate=0.01, beta2=0.9, epsilon=1e-2)],
    ids=["SGD", "Adam"],
)
@pytest.mark.parametrize("increments", [FullBatch(), Subsampled(4)], ids=["all", "subset"])
def test_a_compiled_euler_maruyama_path_is_the_plain_one(
    name: str, optimizer: sv.Optimizer, increments: Increments
) -> None:
    """The chain's step is compiled whole; the other's gradients and update, each by itself."""
    plain, fast, theta0 = problems(name)

    def end(problem: ModuleProblem) -> torch.Tensor:
        sde = sv.derive(optimizer, sv.GradientOracle(problem, sv.MinibatchNoise(2)))
        two_replicas = 2 * plain.dim * 8
        stepper = EulerMaruyama(sde, (2,), increments, cache=two_replicas)
        streams = Streams(0, "brownian", [Block(0, 4)])
        start = State(7, **{n: theta0.abs() if n == "u" else theta0 for n in sde.components})
        last = list(stepper.run(start.expand(4), 3, streams))[-1]
        return torch.stack([part for state in last for part in state.components.values()])

    torch.testing.assert_close(end(fast), end(plain))


def test_sums_over_microbatches_are_the_sums_of_all_samples() -> None:
    plain, _, theta0 = problems("dense chain")
    inputs, targets = torch.randn(50, 16).double(), torch.randint(3, (50,))
    problem = sv.problem_from_module(
        NETS["dense chain"]().double(), inputs, targets, nn.CrossEntropyLoss(reduction="none")
    )
    chain = DenseChain.of(problem.model)
    assert chain is not None
    theta = theta0 + 0.1 * torch.randn(2, plain.dim).double()
    weights, batch = torch.randn(2, 50).double(), Batch(problem.data.data, True)
    microbatches = Microbatches(chain.sums, sample=100, size=3000)
    assert microbatches.parts(2, 50) == [(0, 32), (32, 18)]
    for part, whole in zip(
        microbatches(theta, weights, batch), chain.sums(theta, weights, batch), strict=True
    ):
        torch.testing.assert_close(part, whole)


def test_without_a_compiler_the_problem_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(sv.UnsupportedError, match=r"no-such-compiler.*compiled=False"):
        problems("dense chain")


def forked(theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (theta.sin() if theta.sum() > 0 else theta.cos(),)


def test_what_cannot_be_traced_is_refused() -> None:
    with pytest.raises(sv.UnsupportedError, match="cannot be compiled"):
        compiled(forked, [torch.ones(3)])


@needs_a_compiler
def test_what_gives_other_numbers_when_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = torch.nn.functional.relu
    monkeypatch.setattr(compiling, "_compiled", lambda function, given: lambda x: (wrong(x),))
    with pytest.raises(sv.UnsupportedError, match=r"differ from the plain ones by 0\.5"):
        compiled(lambda x: (x.abs(),), [torch.tensor([-0.5, 1.0])])


def test_gradients_that_cannot_be_compiled_are_computed_as_they_are_with_a_warning() -> None:
    def kernel(theta: torch.Tensor, weights: torch.Tensor, batch: Batch) -> tuple[torch.Tensor]:
        return (weights @ forked(batch.data.args[0])[0],)

    x, weights = torch.rand(5, 2), torch.rand(3, 5)
    gradients = Compiled(Microbatches(kernel, 1, 1 << 20))
    batch = Batch(Data((x,), {}, torch.zeros(5)), True)
    with pytest.warns(UserWarning, match="gradients are not compiled"):
        (found,) = gradients(torch.zeros(3, 1), weights, batch)
    torch.testing.assert_close(found, weights @ x.sin())
