"""The correct studies that the faults spoil.

All are small enough for the exact route: one parameter (two where a fault needs two), and batches
of two of a few samples, so that sigma is not 1 and a mistake in the batch size shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sdeverify.base.state import State
from sdeverify.ensembles.observables import Observable
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, Optimizer, RMSprop, SGDMomentum
from sdeverify.optimizers.derive import Derivation
from sdeverify.optimizers.ladders import Ladder, LearningRates, SvagLevels
from sdeverify.problems.library import circle_problem, line_problem, torus_problem
from sdeverify.problems.problem import Problem
from sdeverify.sdes import GradientSDE, SGDSecondOrder
from sdeverify.study.study import Study

LEVELS = SvagLevels([1, 2, 4, 8])
ADAPTIVE_LEVELS = SvagLevels([1, math.sqrt(2), 2, 2 * math.sqrt(2)])
ADAM_LEVELS = SvagLevels([1, math.sqrt(2), math.sqrt(3), 2])
"""Fewer steps, since the exact route follows three dimensions."""
FINE_LEVELS = SvagLevels([1, 2, 4, 8, 16])
"""A rung more: without it Nesterov's error is not asymptotic, nor that of levels with mu kept."""
ADAMW_LEVELS = SvagLevels([1, math.sqrt(2), math.sqrt(3), 2, 2 * math.sqrt(2)])
"""A rung more: without it the error's limit is known to half of gradient flow's only."""
STEPS = (4.0, 8.0)
"""Level-1 steps at which both sides are compared."""

PROBLEMS = {"circle": circle_problem, "line": line_problem, "torus": torus_problem}
OBSERVABLES: dict[str, tuple[Observable, ...]] = {
    "circle": (
        Observable("cos x", lambda s: s.theta[:, 0].cos()),
        Observable("sin 2x", lambda s: (2 * s.theta[:, 0]).sin()),
    ),
    "line": (
        Observable("x", lambda s: s.theta[:, 0]),
        Observable("x^2", lambda s: s.theta[:, 0].square()),
    ),
    "torus": (
        Observable("cos x", lambda s: s.theta[:, 0].cos()),
        Observable("cos 2y", lambda s: (2 * s.theta[:, 1]).cos()),
        Observable("sin x sin y", lambda s: s.theta.sin().prod(1)),
    ),
}


def correct_studies() -> dict[str, Study]:
    """The studies by name; they claim nothing that is wrong."""
    second: dict[str, Any] = {"ladder": LearningRates([0.2, 0.1, 0.05, 0.025])}
    heavy: dict[str, Any] = {"momentum": 0.8}
    rms: dict[str, Any] = {"learning_rate": 0.1, "beta": 0.98, "epsilon": 0.5}
    adam: dict[str, Any] = {"learning_rate": 0.1, "beta1": 0.8, "beta2": 0.98, "epsilon": 0.5}
    second_order: dict[str, Any] = {**second, "sde": SGDSecondOrder}
    moving, moments = {"p": -0.5}, {"m": 0.3, "u": 0.8}
    kept: dict[str, Any] = {"sde_options": {"keep_signal": True}}
    sgd, sgd_decay = SGD(learning_rate=0.2), SGD(learning_rate=0.2, weight_decay=0.4)
    momentum = SGDMomentum(learning_rate=0.04, **heavy)
    damped = SGDMomentum(learning_rate=0.08, dampening=0.5, **heavy)
    nesterov = SGDMomentum(learning_rate=0.04, nesterov=True, **heavy)
    adamw = Adam(decoupled_weight_decay=0.5, **adam)
    return {
        s.name: s
        for s in (
            _study("sgd", "SGD", sgd, "circle"),
            _study("sgd-rates", "SGD along learning rates", sgd, "circle", **second),
            _study("sgd-decay", "SGD with weight decay", sgd_decay, "line"),
            _study("sgd-torus", "SGD with two parameters", sgd, "torus"),
            _study("sgd-second", "SGD, second order", sgd, "circle", **second_order),
            _study("momentum", "momentum", momentum, "circle", moving, FINE_LEVELS),
            _study("momentum-damped", "momentum with dampening", damped, "circle", moving),
            _study("nesterov", "Nesterov's momentum", nesterov, "circle", moving, FINE_LEVELS),
            _study("rmsprop", "RMSprop", RMSprop(**rms), "circle", {"u": 0.8}),
            _study(
                "rmsprop-old-v",
                "RMSprop with the paper's placement of v",
                RMSprop(old_v=True, **rms),
                "circle",
                {"u": 0.8},
            ),
            _study(
                "rmsprop-signal",
                "RMSprop, signal kept",
                RMSprop(**rms),
                "circle",
                {"u": 0.8},
                **kept,
            ),
            _study("adam", "Adam", Adam(**adam), "circle", moments),
            _study("adam-signal", "Adam, signal kept", Adam(**adam), "circle", moments, **kept),
            _study("adamw", "AdamW", adamw, "line", moments, ADAMW_LEVELS),
        )
    }


def _study(
    name: str,
    title: str,
    optimizer: Optimizer,
    place: str,
    buffers: Mapping[str, float] | None = None,
    ladder: Ladder | None = None,
    sde: type[GradientSDE] | Derivation | None = None,
    sde_options: Mapping[str, Any] | None = None,
) -> Study:
    problem: Problem = PROBLEMS[place]()
    theta = torch.tensor({"torus": [2.0, -1.2], "line": [1.2]}.get(place, [-0.4]))
    parts = {n: torch.full_like(theta, v).double() for n, v in (buffers or {}).items()}
    levels = {1: LEVELS, 2: ADAPTIVE_LEVELS}[optimizer.refinement_power]
    levels = ADAM_LEVELS if isinstance(optimizer, Adam) else levels
    return Study(
        name=name,
        title=title,
        optimizer=optimizer,
        oracle=GradientOracle(problem, MinibatchNoise(2, replacement=False)),
        start=State(10, theta=theta.double(), **parts),
        steps=STEPS,
        observables=OBSERVABLES[place],
        ladder=ladder or levels,
        sde=sde,
        sde_options=sde_options or {},
        replicas=32768,
        substeps=(4, 8),
        start_note="a given state",
    )
