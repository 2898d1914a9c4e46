"""The published case on the circle, small enough for weak errors without sampling.

sdeverify certify studies/circle     # computed on grids, about twenty seconds
sdeverify report studies/circle      # the same study by Monte Carlo
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

import sdeverify as sv
from sdeverify.problems.library import circle_problem
from sdeverify.sdes import SGDSecondOrder

OBSERVABLES = (
    sv.Observable("cos x", lambda s: s.theta[:, 0].cos()),
    sv.Observable("sin 2x", lambda s: (2 * s.theta[:, 0]).sin()),
    sv.Observable("exp cos x", lambda s: s.theta[:, 0].cos().exp()),
)


def build(learning_rate: float = 0.2, rungs: int = 5, replicas: int = 8192) -> Sequence[sv.Study]:
    """SGD with batches of one, from x = 2, over a time of 2; RMSprop with batches of two."""
    problem = circle_problem()
    start = torch.tensor([2.0], dtype=torch.float64)
    rates = sv.LearningRates([learning_rate / 2**i for i in range(rungs)])
    levels = sv.SvagLevels([2**i for i in range(rungs)])
    roots = sv.SvagLevels([2 ** (i / 2) for i in range(rungs)])
    last = 2 / learning_rate

    def study(name: str, title: str, ladder: sv.Ladder, sde: type | None = None) -> sv.Study:
        return sv.Study(
            name=name,
            title=title,
            optimizer=sv.SGD(learning_rate=learning_rate),
            oracle=sv.GradientOracle(problem, sv.MinibatchNoise(1)),
            start=sv.State(0, theta=start),
            steps=(last / 2, last),
            observables=OBSERVABLES,
            ladder=ladder,
            sde=sde,
            replicas=replicas,
            start_note="x = 2",
        )

    rmsprop = sv.Study(
        name="rmsprop-levels",
        title="RMSprop along SVAG levels",
        optimizer=sv.RMSprop(learning_rate=0.1, beta=0.98, epsilon=0.5),
        oracle=sv.GradientOracle(problem, sv.MinibatchNoise(2)),
        start=sv.State(0, theta=start, u=torch.tensor([0.8], dtype=torch.float64)),
        steps=(4, 8),
        observables=OBSERVABLES,
        ladder=roots,
        replicas=replicas,
        start_note="x = 2, u = 0.8",
    )
    return [
        study("levels", "SGD along SVAG levels", levels),
        study("rates", "SGD along learning rates", rates),
        study("second-order", "SGD, second-order SDE, along learning rates", rates, SGDSecondOrder),
        rmsprop,
    ]


STUDY = sv.Campaign(
    name="circle",
    title="SGD and RMSprop on the circle, without sampling",
    question="Do the SDEs have their order where both sides can be computed exactly?",
    build=build,
    command="sdeverify certify studies/circle",
)
