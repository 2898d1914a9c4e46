"""The SVAG ladder on handwritten digits: do the refined runs come to the SDE?

sdeverify report studies/svag_ladder
"""

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
    seed: int = 1,
    device: str = "cpu",
) -> Sequence[sv.Study]:
    """SGD, with momentum and Nesterov's, early in training; RMSprop, Adam and AdamW later.

    Errors are measured by coupling, as in studies/digits; SGD and momentum, whose errors are as
    large as the standard deviation between runs, take twice the paths and four times the trunks.
    """
    problem, theta0 = digits_problem(samples, hidden, device=device)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size))
    observables = [
        measures.loss(problem),
        measures.squared_gradient_norm(problem),
        measures.squared_parameter_norm(),
        measures.accuracy(problem),
    ]
    moments: Any = {"learning_rate": 0.004, "beta1": 0.93, "beta2": 0.97, "epsilon": 1e-2}

    def study(
        name: str,
        title: str,
        optimizer: sv.Optimizer,
        ladder: sv.Ladder,
        estimator: sv.Coupled,
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

    linear = sv.SvagLevels([1, 2, 4, 8])
    squared = sv.SvagLevels([1, ROOT, 2, 2 * ROOT, 4])
    usual = sv.Coupled(paths=paths, trunks=trunks, chains=chains)
    large = sv.Coupled(paths=2 * paths, trunks=4 * trunks, chains=chains)
    early: Any = {"horizon": sgd_steps, "warm": 20}
    long: Any = {"horizon": sgd_steps, "warm": 10}  # time steps of 0.32
    momentum = sv.SGDMomentum(learning_rate=0.1, momentum=0.8)
    nesterov = sv.SGDMomentum(learning_rate=0.1, momentum=0.8, nesterov=True)
    rmsprop = sv.RMSprop(learning_rate=0.002, beta=0.97, epsilon=1e-2)
    adamw = sv.Adam(decoupled_weight_decay=2.0, **moments)
    return [
        study("sgd", "SGD", sv.SGD(learning_rate=0.5), linear, large, **early),
        study("momentum", "Momentum", momentum, linear, large, **long),
        study("nesterov", "Nesterov's momentum", nesterov, linear, large, **long),
        study("rmsprop", "RMSprop", rmsprop, squared, usual),
        study("adam", "Adam", sv.Adam(**moments), squared, usual),
        study("adamw", "AdamW", adamw, squared, usual),
    ]


STUDY = sv.Campaign(
    name="svag_ladder",
    title="The SVAG ladder of six optimizers on handwritten digits",
    question=(
        "SVAG refines the optimizer and raises its noise so that the SDE stays the same. If the "
        "SDE is right, the refined runs come to it: as 1/level for SGD, with momentum or without, "
        "as 1/level^2 for RMSprop, Adam and AdamW, which is order 1 in the SDE's time per step. "
        "Do they?"
    ),
    build=build,
    command="sdeverify report studies/svag_ladder",
)
