"""The check of an SDE's weak order over a whole horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sdeverify.analysis import overall_verdict
from sdeverify.analysis.verdict import INCONCLUSIVE, SUPPORTED
from sdeverify.base.state import State
from sdeverify.ensembles.observables import Observable
from sdeverify.exact.consistency import checked_order
from sdeverify.exact.spectral.checks import Domain
from sdeverify.exact.spectral.refinement import time_limit
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.ladders import Ladder, LearningRates, SvagLevels
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.problems.library import circle_problem
from sdeverify.study.certify import certified_order
from sdeverify.study.study import Study
from sdeverify.testing.require import require, states_of
from sdeverify.testing.sde import Derivation, builder

STEPS = (4.0, 8.0)
RUNGS = (4, 5, 6)
"""More where fewer leave the error's limit open."""
SECONDS = 300.0
ANGLES = (
    Observable("cos x", lambda s: s.theta[:, 0].cos()),
    Observable("sin 2x", lambda s: (2 * s.theta[:, 0]).sin()),
)


def check_weak_order(
    sde: Derivation,
    optimizer: Optimizer,
    oracle: GradientOracle | None = None,
    start: State | None = None,
    steps: Sequence[float] = STEPS,
    observables: Sequence[Observable] = ANGLES,
    ladder: Ladder | None = None,
    domain: Domain | None = None,
    seconds: float = SECONDS,
    **options: Any,
) -> None:
    """Raises where weak errors over a whole horizon do not fall with the order that is claimed.

    Both sides are computed without sampling (`certify`), along SVAG levels for order 1 and along
    learning rates for order 2. It takes seconds to a minute and sees what `check_sde` cannot: terms
    that are right at the states which that one looks at, and wrong elsewhere.

    Args:
        sde, optimizer, options: as for `check_sde`.
        oracle: noise with atoms and few enough parameters for three dimensions; by default
            mini-batches of two of six losses on the circle.
        start: where both sides start from; by default a state after a few steps of the optimizer.
        steps: level-1 steps from the start, at which both sides are compared.
        observables: with the period of theta where the problem has one.
        ladder: four rungs unless given, up to six where four leave the error's limit open.
        domain: as for `certify`.
        seconds: after which it is given up; what is not smooth may never be resolved on a grid.

    Raises:
        AssertionError: with the order that was found, or why none was.
        UnsupportedError: more than three dimensions, noise without atoms, or out of time.

    Example:
        >>> sv.testing.check_weak_order(sv.sdes.SGDFirstOrder, sv.SGD(learning_rate=0.2))
    """
    oracle = GradientOracle(circle_problem(), MinibatchNoise(2)) if oracle is None else oracle
    build: Any = builder(sde, options)
    equation = build(optimizer, oracle)
    claimed = checked_order(equation.claimed_order)
    study = Study(
        name="check",
        title="check",
        optimizer=optimizer,
        oracle=oracle,
        start=states_of(optimizer, oracle)[0] if start is None else start,
        steps=steps,
        observables=observables,
        ladder=_ladder(optimizer, claimed, RUNGS[0]) if ladder is None else ladder,
        sde=build,
    )
    with time_limit(seconds):
        order = certified_order(study, domain)
        for rungs in RUNGS[1:]:
            if ladder is not None or overall_verdict(order).verdict != INCONCLUSIVE:
                break
            finer = replace(study, ladder=_ladder(optimizer, claimed, rungs))
            order = certified_order(finer, domain)
    verdict = overall_verdict(order)
    lines = [
        f"    {order.observable.values[i]} at step {order.step.values[j]:g}: "
        f"{order['verdict'].values[i, j]}, order {order['order'].values[i, j]:.3f} "
        f"({order['reason'].values[i, j]})"
        for i, j in np.ndindex(*order["verdict"].shape)
    ]
    require(
        verdict.verdict == SUPPORTED,
        f"{type(equation).__name__} is not seen to have weak order "
        f"{order.attrs['claimed_order']:g} for {optimizer.name}. {verdict.text}\n"
        + "\n".join(lines)
        + "\ncheck_sde says which moment of a step differs, if one does.",
    )


def _ladder(optimizer: Optimizer, claimed: int, rungs: int) -> Ladder:
    if claimed > 1:
        return LearningRates([optimizer.learning_rate / 2**i for i in range(rungs)])
    return SvagLevels([2 ** (i / optimizer.refinement_power) for i in range(rungs)])
