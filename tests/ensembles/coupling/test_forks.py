"""Forks: what noise that is not normal changes, against the same without sampling.

The exact values come from grids (`exact_discrete`) with the atoms of the mini-batches, and with
normal noise of their covariance.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdeverify import (
    SGD,
    Adam,
    GaussianNoise,
    GradientOracle,
    MinibatchNoise,
    Observable,
    Optimizer,
    RMSprop,
    SGDMomentum,
    State,
    svag,
)
from sdeverify.base.rng import Block, Streams
from sdeverify.ensembles.coupling.forks import CHANNELS, Forks
from sdeverify.exact import Periodic, exact_discrete
from sdeverify.problems.library import circle_problem

PROBLEM = circle_problem()
OBSERVABLES = [
    Observable("cos", lambda s: torch.cos(s.theta[:, 0])),
    Observable("sin2", lambda s: torch.sin(2 * s.theta[:, 0])),
]


def one(value: float) -> torch.Tensor:
    """A point of one parameter."""
    return torch.tensor([value], dtype=torch.float64)


CASES: dict[str, tuple[Optimizer, State, list[float]]] = {
    "sgd": (SGD(learning_rate=0.2), State(0, theta=one(2.0)), [5, 10]),
    "momentum": (
        SGDMomentum(learning_rate=0.02, momentum=0.7),
        State(0, theta=one(2.0), p=one(0.1)),
        [6, 12],
    ),
    "rmsprop": (
        RMSprop(learning_rate=0.2, beta=0.9, epsilon=0.3),
        State(5, theta=one(2.0), u=one(0.5)),
        [4, 8],
    ),
}


def estimates(
    optimizer: Optimizer, oracle: GradientOracle, start: State, steps: list[float], block: Block
) -> np.ndarray:
    """Each trunk's estimate, `(trunk, channel, step, observable)`."""
    batches, normals = (Streams(11, role, [block]) for role in ("forks", "forks normals"))
    forks = Forks(optimizer, oracle, strata=2, pairs=2)
    each = []
    for state, branches in forks.run(start.expand(block.wanted), steps, batches, normals):
        total = np.zeros((block.wanted, len(CHANNELS), len(OBSERVABLES)))
        values = np.stack([o(state).numpy() for o in OBSERVABLES], -1)
        weighted = branches.weight.numpy()[:, :, None] * values[:, None]
        np.add.at(total, branches.trunk.numpy(), weighted)
        each.append(total)
    return np.stack(each, 2)


def exact(
    optimizer: Optimizer, oracle: GradientOracle, start: State, steps: list[float]
) -> np.ndarray:
    """E phi of the optimizer less that of its Gaussian form, `(step, observable)`."""

    def factor(theta: torch.Tensor) -> torch.Tensor:
        return PROBLEM.per_sample_gradients(theta).var(1, correction=0).sqrt().unsqueeze(-1)

    normal = GradientOracle(PROBLEM, GaussianNoise(factor, oracle.scale, columns=1, nodes=20))
    domain = {"theta": Periodic()}
    both = [
        exact_discrete(optimizer, o, start, [0.0, *steps], OBSERVABLES, domain, 1e-7)
        for o in (oracle, normal)
    ]
    return (both[0]["mean"] - both[1]["mean"]).values[1:]


@pytest.mark.parametrize(
    ("name", "level"), [("sgd", 1), ("sgd", 2), ("momentum", 1), ("momentum", 2), ("rmsprop", 1)]
)
def test_third_and_fourth_cumulant_make_up_the_difference(name: str, level: float) -> None:
    """Four z a case, each below 4 standard errors: a false alarm in 1 of 4000 runs of one."""
    base, start, steps = CASES[name]
    optimizer, oracle = svag(base, GradientOracle(PROBLEM, MinibatchNoise(1)), level)
    values = estimates(optimizer, oracle, start, steps, Block(0, 3000))
    truth = exact(optimizer, oracle, start, steps)
    total = values.sum(1)
    error = total.std(0, ddof=1) / np.sqrt(len(total))
    z = (total.mean(0) - truth) / error
    assert np.abs(z).max() < 4.0, z
    assert np.abs(truth / error).max() > 4


def test_without_a_fork_s_future_the_first_step_alone_is_replaced() -> None:
    """After one step A is a difference of two finite sums, which the forks meet to rounding."""
    sgd = SGD(learning_rate=0.2)
    oracle = GradientOracle(PROBLEM, MinibatchNoise(1))
    cubic = Observable("cubic", lambda s: (s.theta[:, 0] - 2.0) ** 3)
    start = State(0, theta=one(2.0))
    block = Block(0, 4000)
    streams = [Streams(5, role, [block]) for role in ("forks", "forks normals")]
    *_, (state, branches) = Forks(sgd, oracle, 1, 1).run(start.expand(4000), [1], *streams)
    weighted = branches.weight.numpy()[:, 0] * cubic(state).numpy()
    each = np.zeros(4000)
    np.add.at(each, branches.trunk.numpy(), weighted)
    gradients = PROBLEM.per_sample_gradients(one(2.0)[None])[0, :, 0].numpy()
    third = -((0.2 * (gradients - gradients.mean())) ** 3)
    means = (third[:, None] + third[None]).ravel() / 2
    nearest = np.abs(each[:, None] - means).min(1)
    assert len(np.unique(each.round(9))) == 21, "pairs of six samples"
    assert nearest.max() < 1e-12


def test_a_part_of_a_block_sees_what_it_sees_within_the_whole() -> None:
    adam = Adam(learning_rate=0.1, beta1=0.8, beta2=0.9, epsilon=0.1)
    oracle = GradientOracle(PROBLEM, MinibatchNoise(2))
    start = State(4, theta=one(2.0), m=one(0.1), u=one(0.5))
    whole = estimates(adam, oracle, start, [2, 4], Block(1, 7))
    parts = [
        estimates(adam, oracle, start, [2, 4], Block(1, 7, first=a, last=b))
        for a, b in ((0, 3), (3, 7))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9, atol=1e-12)
    assert np.abs(whole).max() > 0
