"""The main job: SGD, RMSprop and Adam on handwritten digits, each against its SDE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sdeverify as sv
from sdeverify.ensembles import measures
from sdeverify.problems.digits import digits_problem

ROOT = 2**0.5


def build(
    samples: int = 256,
    hidden: int = 16,
    batch_size: int = 8,
    paths: int = 256,
    trunks: int = 64,
    chains: int = 512,
    steps: int = 20,
    sgd_steps: int = 12,
    seed: int = 0,
    device: str = "cpu",
) -> Sequence[sv.Study]:
    """The four studies; sizes are chosen for errors of the loss that are known to a few percent.

    Errors are measured by coupling: the optimizer and its SDE on common Brownian paths, with forks
    for the batches' own distribution. SGD's levels take twice the paths and four times the trunks:
    at this rate the error is as large as the standard deviation between runs. Only accuracy, which
    is not smooth, needs independent runs (`chains`).

    SGD's ladder of rates starts where |theta|^2 shows order 1. Loss and |grad f|^2 have hardly an
    error of first order here (gradient descent minus gradient flow at 0.25: -0.002 and -0.0004).
    """
    problem, theta0 = digits_problem(samples, hidden, device=device)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size))
    observables = [
        measures.loss(problem),
        measures.squared_gradient_norm(problem),
        measures.squared_parameter_norm(),
        measures.accuracy(problem),
    ]
    sgd = sv.SGD(learning_rate=0.5)
    slow = sv.SGD(learning_rate=0.25)
    rmsprop = sv.RMSprop(learning_rate=0.002, beta=0.97, epsilon=1e-2)
    adam = sv.Adam(learning_rate=0.004, beta1=0.93, beta2=0.97, epsilon=1e-2)
    usual = sv.Coupled(paths=paths, trunks=trunks, chains=chains)

    def study(
        name: str,
        title: str,
        optimizer: sv.Optimizer,
        ladder: sv.Ladder,
        estimator: sv.Coupled = usual,
        horizon: int = steps,
        warm: int = 60,
    ) -> sv.Study:
        return sv.Study(
            name=name,
            title=title,
            optimizer=optimizer,
            oracle=oracle,
            start=sv.warm_up(optimizer, oracle, theta0, steps=warm, seed=seed),
            steps=[horizon * k / 4 for k in range(5)],
            observables=observables,
            ladder=ladder,
            estimator=estimator,
            seed=seed,
            start_note=f"{warm} warm-up steps of {optimizer.name} from torch's initial state",
        )

    levels = sv.SvagLevels([1, ROOT, 2, 2 * ROOT, 4])
    coarse = sv.Coupled(paths=2 * paths, trunks=4 * trunks, chains=chains)
    # SGD early in training, where its error is large beside its standard deviation: from a time of
    # 10 to 16.
    early: Any = {"horizon": sgd_steps, "warm": 20}
    early_slow: Any = {"horizon": 2 * sgd_steps, "warm": 40}
    sgd_levels, rates = (
        sv.SvagLevels([1, 2, 4, 8]),
        sv.LearningRates([0.25, 0.125, 0.0625, 0.03125]),
    )
    return [
        study("sgd-levels", "SGD along SVAG levels", sgd, sgd_levels, coarse, **early),
        study("sgd-rates", "SGD along learning rates", slow, rates, **early_slow),
        study("rmsprop-levels", "RMSprop along SVAG levels", rmsprop, levels),
        study("adam-levels", "Adam along SVAG levels", adam, levels),
    ]


STUDY = sv.Campaign(
    name="digits",
    title="Do the SDEs of SGD, RMSprop and Adam hold on handwritten digits?",
    question=(
        "A small network is trained on scikit-learn's handwritten digits. Each optimizer is run as "
        "it is and refined, its SDE is solved directly with the exact covariance of the gradient "
        "noise, and the weak error between them is measured against the step. Does it fall with "
        "the order that theory claims?"
    ),
    build=build,
    command="sdeverify report studies/digits",
)
