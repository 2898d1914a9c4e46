"""What an Euler-Maruyama step costs on nets of several kinds, in units of one plain gradient.

python studies/performance/networks.py                       # every net, about five minutes
python studies/performance/networks.py cnn transformer --replicas 1 4
python studies/performance/networks.py mlp --compiled
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

import sdeverify as sv
from sdeverify.problems.digits import digits, perceptron
from sdeverify.rng import Block, Streams
from sdeverify.state import State
from sdeverify.steppers.euler_maruyama import EulerMaruyama
from sdeverify.steppers.increments import FullBatch

ROUNDS = 7
LOSS = nn.CrossEntropyLoss(reduction="none")


class SmallTransformer(nn.Module):
    """Digits read as 8 tokens of 8 pixels: two encoder layers and a head on the mean token."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x.unflatten(1, (8, 8))) + self.position
        return self.head(self.blocks(h).mean(1))


def cnn() -> nn.Module:
    """Two convolutions with pooling and two linear layers on 8 x 8 digits: 18,710 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def wide_cnn() -> nn.Module:
    """Nearly all parameters in one convolution: 18,754."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 56, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(224, 10),
    )  # fmt: skip


NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: perceptron(64),
    "cnn": cnn,
    "wide cnn": wide_cnn,
    "transformer": SmallTransformer,
}
FORMS = {
    "SGD": (sv.SGD(learning_rate=0.1), False),
    "Adam": (sv.Adam(learning_rate=1e-3, epsilon=1e-2), False),
    "one-gradient": (sv.Adam(learning_rate=1e-3, epsilon=1e-2), True),
}


def interleaved(works: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median processor seconds of each, run in turn so that a drift of speed hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            begin = time.process_time()
            work()
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(t) for name, t in times.items()}


def consumed(run: Callable[..., Iterable[object]], *arguments: object) -> object:
    """The states that a stepper gives."""
    return list(run(*arguments))


def plain_gradient(net: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """One full-batch gradient by eager autograd."""
    net.zero_grad()
    nn.functional.cross_entropy(net(inputs), targets).backward()


def step_work(
    problem: sv.ModuleProblem, theta0: torch.Tensor, form: str, replicas: int
) -> Callable[[], object]:
    """One Euler-Maruyama step of an ensemble, ready to be called."""
    optimizer, one_gradient = FORMS[form]
    sde = sv.derive(optimizer, sv.GradientOracle(problem, sv.MinibatchNoise(32)))
    stepper = EulerMaruyama(sde, (1,), FullBatch(one_gradient))
    parts = {n: theta0 if n == "theta" else theta0.abs() + 1e-3 for n in sde.components}
    start = State(10, **parts).expand(replicas)
    streams = Streams(0, "brownian", [Block(0, replicas)], dtype=problem.dtype)
    return partial(consumed, stepper.run, start, 1, streams)


def cost_in_gradients(
    name: str,
    replicas: int,
    forms: Iterable[str] = FORMS,
    samples: int = 1797,
    compiled: bool = False,
) -> dict[str, float]:
    """A step's cost a replica in plain gradients, by form."""
    torch.manual_seed(0)
    net = NETS[name]()
    inputs, targets = digits(samples)
    problem = sv.problem_from_module(net, inputs, targets, LOSS, compiled=compiled)
    theta0 = sv.flatten_parameters(net)
    works: dict[str, Callable[[], object]] = {
        "plain": partial(plain_gradient, net, inputs, targets),
        **{form: step_work(problem, theta0, form, replicas) for form in forms},
    }
    seconds = interleaved(works)
    return {
        "ms": 1e3 * seconds["plain"],
        **{form: seconds[form] / replicas / seconds["plain"] for form in forms},
    }


def main() -> None:
    """Prints one row a net and number of replicas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--replicas", nargs="*", type=int, default=[1, 4, 16])
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | replicas | plain gradient, ms | " + " | ".join(FORMS) + " |")
    print("|---|---|---|" + "---|" * len(FORMS))
    for name in options.nets:
        for replicas in options.replicas:
            found = cost_in_gradients(name, replicas, compiled=options.compiled)
            ms = found.pop("ms")
            row = " | ".join(f"{value:.2f}" for value in found.values())
            print(f"| {name} | {replicas} | {ms:.1f} | {row} |", flush=True)


if __name__ == "__main__":
    main()
