"""Order certificates of all SDEs, without sampling.

sdeverify certify studies/certificates     # both sides on grids, a few minutes
python studies/certificates/run.py         # the same, with its report and the table in docs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

import sdeverify as sv
from sdeverify.base.state import Components
from sdeverify.optimizers.adaptive import bias_correction
from sdeverify.problems.library import circle_problem
from sdeverify.sdes import SGDSecondOrder
from sdeverify.testing.faults import correct_studies

OBSERVABLES = (
    sv.Observable("cos x", lambda s: s.theta[:, 0].cos()),
    sv.Observable("sin 2x", lambda s: (2 * s.theta[:, 0]).sin()),
    sv.Observable("exp cos x", lambda s: s.theta[:, 0].cos().exp()),
)
ADAPTIVE_LEVELS = sv.SvagLevels([2 ** (i / 2) for i in range(4)])


@dataclass(frozen=True, kw_only=True)
class AdamOldV(sv.Adam):
    """Adam that divides by the root of the old v (Malladi et al. 2022); the SDE is the same."""

    def advance(self, k: int, y: Components, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        theta = y["theta"].clone()
        root = (y["v"] / bias_correction(self.beta2, k - 1)).sqrt() + self.epsilon
        moved = super().advance(k, y, gradient)
        move = self.rate(k) * moved["m"] / bias_correction(self.beta1, k) / root
        return moved | {"theta": theta - move}


def published(rate: float, rungs: int) -> list[sv.Study]:
    """SGD with batches of one from x = 2 over a time of 2: a published table's case."""
    rates = sv.LearningRates([rate / 2**i for i in range(rungs)])
    levels = sv.SvagLevels([2**i for i in range(rungs)])
    first = sv.Study(
        name="sgd-levels",
        title="SGD along SVAG levels",
        optimizer=sv.SGD(learning_rate=rate),
        oracle=sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1)),
        start=sv.State(0, theta=torch.tensor([2.0], dtype=torch.float64)),
        steps=(1 / rate, 2 / rate),
        observables=OBSERVABLES,
        ladder=levels,
        start_note="x = 2",
    )
    by_rates = replace(first, name="sgd-rates", title="SGD along learning rates", ladder=rates)
    flow = {"name": "flow-rates", "title": "gradient flow along SGD's learning rates"}
    second = {"name": "sgd-second", "title": "SGD, second-order SDE, along learning rates"}
    return [
        replace(by_rates, **flow, sde=sv.GradientFlow),
        first,
        by_rates,
        replace(by_rates, **second, sde=SGDSecondOrder),
    ]


def build(learning_rate: float = 0.2, rungs: int = 5) -> Sequence[sv.Study]:
    """One study for each optimizer, placement of v, and form of the SDE."""
    correct = correct_studies()
    signal = {"keep_signal": True}
    old = correct["rmsprop-old-v"]
    adam = replace(correct["adam"], ladder=ADAPTIVE_LEVELS)
    table = {n: getattr(adam.optimizer, n) for n in ("learning_rate", "beta1", "beta2", "epsilon")}
    paper = replace(
        adam,
        name="adam-old-v",
        title="Adam with the paper's placement of v",
        optimizer=AdamOldV(**table),
    )
    kept = [
        replace(s, name=f"{s.name}-signal", title=f"{s.title}, signal kept", sde_options=signal)
        for s in (old, adam, paper)
    ]
    return [
        *published(learning_rate, rungs),
        *(correct[n] for n in ("sgd-decay", "sgd-torus", "momentum", "momentum-damped")),
        correct["nesterov"],
        *(correct["rmsprop"], correct["rmsprop-signal"], old, kept[0]),
        *(adam, kept[1], paper, kept[2]),
        correct["adamw"],
    ]


STUDY = sv.Campaign(
    name="certificates",
    title="Order certificates, without sampling",
    question="Do the SDEs have their order where both sides can be computed exactly?",
    build=build,
    command="sdeverify certify studies/certificates",
)
