"""Discrete ensembles against a Python loop of `torch.optim`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from sdeverify.base.rng import Block, Streams
from sdeverify.base.shapes import Tensor
from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section, Work, interleaved
from sdeverify.benchmarks.nets import Subject, on_digits, perceptron
from sdeverify.ensembles.steppers.discrete import DiscreteChain
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, Optimizer

BATCH = 32
STEPS = 10


class Pair(NamedTuple):
    """An optimizer of ours and the one of torch."""

    name: str
    ours: Optimizer
    theirs: Callable[..., torch.optim.Optimizer]


PAIRS = (
    Pair("SGD", SGD(learning_rate=0.1), torch.optim.SGD),
    Pair("Adam", Adam(learning_rate=1e-3), torch.optim.Adam),
)


def discrete_section(effort: Effort) -> Section:
    """Two networks, 128 replicas and more."""
    replicas = (128,) if effort.quick else (128, 512)
    return Section(
        title=f"Discrete ensembles, batch {BATCH}",
        unit="how many times faster than a loop of torch.optim on one thread",
        headings=("network", "replicas"),
        columns=tuple(pair.name for pair in PAIRS),
        cases=tuple(
            Case((f"MLP 64-{hidden}-10", str(n)), partial(_speedups, hidden, n, effort))
            for hidden in (64, 16)
            for n in replicas
        ),
        goals={
            "MLP 64-64-10": {"SGD": Goal(9, False), "Adam": Goal(12, False)},
            "MLP 64-16-10": {"SGD": Goal(20, False), "Adam": Goal(30, False)},
        },
    )


def _speedups(hidden: int, replicas: int, effort: Effort) -> list[float]:
    subject = Subject("", lambda: perceptron(64, hidden, 10), (64,))
    problem, net, inputs, targets = on_digits(subject, 1797, effort.device)
    oracle = GradientOracle(problem, MinibatchNoise(BATCH))
    theta = problem.reference.expand(replicas, -1).contiguous()
    works: dict[str, Work] = {}
    for pair in PAIRS:
        optimizer = pair.theirs(net.parameters(), lr=1e-4)
        works[f"{pair.name} loop"] = training_loop(net, optimizer, inputs, targets)
        start = pair.ours.to_sde(0, pair.ours.init(theta), oracle)
        streams = Streams(0, "gradients", [Block(0, replicas)], effort.device, theta.dtype)
        works[pair.name] = partial(_moved, DiscreteChain(pair.ours, oracle), start, streams)
    seconds = interleaved(works, effort)
    return [seconds[f"{p.name} loop"] * replicas / seconds[p.name] for p in PAIRS]


def _moved(chain: DiscreteChain, start: Any, streams: Streams) -> None:
    for _ in chain.run(start, [float(STEPS)], streams):
        pass


def training_loop(
    net: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> Work:
    """Some steps of one run, as users write them."""
    loss = nn.CrossEntropyLoss()

    def work() -> None:
        for _ in range(STEPS):
            batch = torch.randint(len(inputs), (BATCH,), device=inputs.device)
            optimizer.zero_grad()
            loss(net(inputs[batch]), targets[batch]).backward()
            optimizer.step()

    return work
