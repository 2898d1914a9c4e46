"""Planted faults of the SDE of Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import Components, Time
from sdeverify.sdes import GradientSDE
from sdeverify.testing.faults.correct import correct_studies
from sdeverify.testing.faults.fault import (
    Drift,
    Fault,
    Parts,
    constants,
    noise_times,
    structure,
    times,
)

Corrections = Callable[[float, float], tuple[float, float]]
"""(gamma_1, gamma_2) -> the factor in front of m/P, and the one of epsilon_0 in P."""


def faults() -> list[Fault]:
    """The faults, those of the bias corrections first."""
    plain = correct_studies()["adam"]

    def corrected(name: str, what: str, factors: Corrections, late: float = 1.0) -> Fault:
        return Fault(name, what, plain, structure(what, drift=_direction(factors, late)))

    return [
        corrected(
            "adam-corrections-swapped",
            "the bias corrections of m and v are swapped",
            lambda g1, g2: (math.sqrt(g1) / g2, math.sqrt(g1)),
        ),
        corrected(
            "adam-corrections-missing", "no bias correction at all", lambda g1, g2: (1.0, 1.0)
        ),
        corrected(
            "adam-m-uncorrected",
            "the bias correction of m is missing",
            lambda g1, g2: (math.sqrt(g2), math.sqrt(g2)),
        ),
        corrected(
            "adam-correction-root",
            "gamma_2 for its root",
            lambda g1, g2: (g2 / g1, g2),
        ),
        corrected(
            "adam-epsilon-uncorrected",
            "epsilon_0 without the factor sqrt(gamma_2)",
            lambda g1, g2: (math.sqrt(g2) / g1, 1.0),
        ),
        corrected(
            "adam-late-clock",
            "the clock of the bias corrections runs at half speed",
            lambda g1, g2: (math.sqrt(g2) / g1, math.sqrt(g2)),
            late=0.5,
        ),
        Fault(
            "adam-c-swapped",
            "c_1 and c_2 are swapped",
            plain,
            constants(c1=lambda s, o, g: s.c2, c2=lambda s, o, g: s.c1),
        ),
        Fault("adam-c1-half", "c_1 is halved", plain, times("c1", 0.5)),
        Fault(
            "adam-sigma0-squared",
            "sigma_0^2 for sigma_0",
            plain,
            constants(sigma0=lambda s, o, g: s.sigma0**2),
        ),
        *_structural(),
        *_decay(),
    ]


def _structural() -> list[Fault]:
    plain = correct_studies()["adam"]
    return [
        Fault("adam-no-noise", "the noise is left out", plain, noise_times(0.0, "no noise")),
        Fault(
            "adam-noise-in-theta",
            "the noise goes into theta instead of m",
            plain,
            structure("noise in theta", noise=_noise_in_theta),
        ),
        Fault(
            "adam-noise-without-c1",
            "the noise of m lacks its factor c_1",
            plain,
            structure("noise without c_1", noise=lambda s, t, y, kick: {"m": kick}),
        ),
        Fault(
            "adam-frozen-u",
            "u stays where it starts",
            plain,
            structure("frozen u", drift=lambda s, t, y, m, v: {"u": torch.zeros_like(y["u"])}),
        ),
        Fault(
            "adam-m-sign",
            "the sign of the gradient in dm",
            plain,
            structure(
                "sign of the gradient in dm",
                drift=lambda s, t, y, mean, v: {"m": -s.constants["c1"] * (mean + y["m"])},
            ),
        ),
    ]


def _decay() -> list[Fault]:
    adamw = correct_studies()["adamw"]
    return [
        Fault("adamw-decay-sign", "the sign of lambda_0", adamw, times("decay0", -1.0)),
        Fault(
            "adamw-decay-unscaled",
            "lambda for lambda_0 = lambda/eta",
            adamw,
            constants(decay0=lambda s, o, g: o.decoupled_weight_decay),
        ),
        Fault(
            "adamw-decay-coupled",
            "the decoupled decay is added to the gradient instead",
            adamw,
            constants(
                decay0=lambda s, o, g: 0.0, weight_decay=lambda s, o, g: o.decoupled_weight_decay
            ),
        ),
    ]


def _direction(factors: Corrections, late: float) -> Drift:
    """d theta/dt with other bias corrections, taken at `late` t."""

    def drift(sde: Any, t: Time, y: Components, mean: Tensor, variance: Tensor) -> Parts:
        gamma1, gamma2 = (-math.expm1(-c * late * t) for c in (sde.c1, sde.c2))
        front, of_epsilon = factors(gamma1, gamma2)
        p = sde.sigma0 * y["u"].sqrt() + sde.epsilon0 * of_epsilon
        return {"theta": -front * y["m"] / p}

    return drift


def _noise_in_theta(sde: GradientSDE, t: Time, y: Components, kick: Tensor) -> Parts:
    """The noise that RMSprop has, in Adam's equation."""
    shared: Any = sde
    return {"theta": -kick / (shared.sigma0 * y["u"].sqrt() + shared.epsilon0)}
