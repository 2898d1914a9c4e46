"""What a step costs, in units of one plain gradient: ratios within one process, one thread.

python studies/performance/run.py            # about two minutes; writes docs/performance.md
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import nn

import sdeverify as sv
from sdeverify.problems.digits import digits, digits_problem, perceptron
from sdeverify.rng import Block, Streams
from sdeverify.state import State
from sdeverify.steppers.discrete import Chain
from sdeverify.steppers.euler_maruyama import EulerMaruyama
from sdeverify.steppers.increments import FullBatch

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
ROUNDS = 9


def interleaved(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, run in turn so that a drift of the machine's speed hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(ROUNDS):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(t) for name, t in times.items()}


def moved(run: Callable[..., Iterable[object]], *arguments: object) -> object:
    """The states that a stepper gives."""
    return list(run(*arguments))


def plain_gradient(hidden: int) -> Callable[[], object]:
    """One full-batch gradient by eager autograd."""
    inputs, targets = digits()
    net = perceptron(hidden)
    loss = nn.CrossEntropyLoss()

    def work() -> None:
        net.zero_grad()
        loss(net(inputs), targets).backward()

    return work


def steps_of_sdes(hidden: int, replicas: int) -> dict[str, float]:
    """An Euler-Maruyama step with all 1797 samples, a replica, in plain gradients."""
    problem, theta0 = digits_problem(1797, hidden)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(32))
    works: dict[str, Callable[[], object]] = {"plain": plain_gradient(hidden)}
    for name, optimizer, one in (
        ("SGD", sv.SGD(learning_rate=0.1), False),
        ("Adam", sv.Adam(learning_rate=1e-3, epsilon=1e-2), False),
        ("Adam, one-gradient form", sv.Adam(learning_rate=1e-3, epsilon=1e-2), True),
    ):
        sde = sv.derive(optimizer, oracle)
        stepper = EulerMaruyama(sde, (1,), FullBatch(one_gradient=one))
        parts = {n: theta0 if n == "theta" else theta0.abs() + 1e-3 for n in sde.components}
        start = State(10, **parts).expand(replicas)
        streams = Streams(0, "brownian", [Block(0, replicas)], dtype=torch.float32)

        works[name] = partial(moved, stepper.run, start, 1, streams)
    seconds = interleaved(works)
    return {n: t / replicas / seconds["plain"] for n, t in seconds.items() if n != "plain"}


def training_loop(
    net: nn.Module, optimizer: torch.optim.Optimizer, steps: int
) -> Callable[[], object]:
    """Some steps of one run, batch 32, as users write them."""
    inputs, targets = digits()
    loss = nn.CrossEntropyLoss()

    def work() -> None:
        for _ in range(steps):
            batch = torch.randint(len(inputs), (32,))
            optimizer.zero_grad()
            loss(net(inputs[batch]), targets[batch]).backward()
            optimizer.step()

    return work


def ensembles(hidden: int, replicas: int, steps: int = 10) -> dict[str, float]:
    """How much faster an ensemble of discrete runs is than a loop of torch.optim, batch 32."""
    problem, theta0 = digits_problem(1797, hidden)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(32))
    found = {}
    for name, ours, theirs in (
        ("SGD", sv.SGD(learning_rate=0.1), torch.optim.SGD),
        ("Adam", sv.Adam(learning_rate=1e-3), torch.optim.Adam),
    ):
        net = perceptron(hidden)
        loop = training_loop(net, theirs(net.parameters(), lr=1e-3), steps)

        theta = theta0.expand(replicas, -1).contiguous()
        start = ours.to_sde(0, ours.init(theta), oracle)
        streams = Streams(0, "gradients", [Block(0, replicas)], dtype=torch.float32)

        ensemble = partial(moved, Chain(ours, oracle).run, start, [float(steps)], streams)

        seconds = interleaved({"loop": loop, "ensemble": ensemble})
        found[name] = seconds["loop"] * replicas / seconds["ensemble"]
    return found


def main() -> None:
    """Measures, prints and writes the page."""
    torch.set_num_threads(1)
    lines = [
        "# Performance",
        "",
        "Made by `python studies/performance/run.py`: medians of "
        f"{ROUNDS} interleaved rounds, one thread, float32, torch {torch.__version__}, "
        f"{platform.machine()}. Handwritten digits, a 64-h-10 tanh network. No GPU was at hand.",
        "",
        "## An Euler–Maruyama step with all 1797 samples, a replica, in plain gradients",
        "",
        "The unit is one full-batch gradient by eager autograd.",
        "",
        "| network | replicas | SGD | Adam (exact diag Σ) | Adam, one-gradient form |",
        "|---|---|---|---|---|",
    ]
    for replicas in (1, 4, 16, 64):
        found = steps_of_sdes(64, replicas)
        lines.append(f"| 64-64-10 | {replicas} | " + " | ".join(f"{v:.2f}" for v in found.values()))
        lines[-1] += " |"
        print(lines[-1], flush=True)
    lines += [
        "",
        "## Discrete ensembles, batch 32: times faster than a loop of `torch.optim`",
        "",
        "| network | replicas | SGD | Adam |",
        "|---|---|---|---|",
    ]
    for hidden, replicas in ((64, 128), (64, 512), (16, 128), (16, 512)):
        speed = ensembles(hidden, replicas)
        lines.append(f"| 64-{hidden}-10 | {replicas} | {speed['SGD']:.1f} | {speed['Adam']:.1f} |")
        print(lines[-1], flush=True)
    PAGE.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(f"Wrote {PAGE.relative_to(PAGE.parents[1])}")


if __name__ == "__main__":
    main()
