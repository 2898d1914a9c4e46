"""Planted faults of RMSprop's SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import Components, State
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import RMSprop
from sdeverify.testing.faults.correct import correct_studies
from sdeverify.testing.faults.fault import (
    Fault,
    clock_times,
    constants,
    noise_times,
    structure,
    times,
)


def faults() -> list[Fault]:
    """The faults, those of the constants first."""
    plain = correct_studies()["rmsprop"]
    return [
        Fault(
            "rmsprop-sigma0-squared",
            "sigma_0^2 for sigma_0",
            plain,
            constants(sigma0=lambda s, o, g: s.sigma0**2),
        ),
        Fault(
            "rmsprop-sigma-for-sigma0",
            "sigma for sigma_0 = sigma eta",
            plain,
            constants(sigma0=lambda s, o, g: g.scale),
        ),
        Fault(
            "rmsprop-epsilon-unscaled",
            "epsilon for epsilon_0 = epsilon eta",
            plain,
            constants(epsilon0=lambda s, o, g: o.epsilon),
        ),
        Fault(
            "rmsprop-no-epsilon",
            "epsilon_0 is left out",
            plain,
            constants(epsilon0=lambda s, o, g: 0.0),
        ),
        Fault("rmsprop-c2-half", "c_2 is halved", plain, times("c2", 0.5)),
        Fault("rmsprop-c2-sign", "the sign of du: u runs away", plain, times("c2", -1.0)),
        Fault(
            "rmsprop-c2-over-eta",
            "c_2 = (1 - beta)/eta, the scaling of the other clock",
            plain,
            constants(c2=lambda s, o, g: (1 - o.beta) / o.learning_rate),
        ),
        Fault(
            "rmsprop-full-signal",
            "du keeps (grad f)^2 with weight 1 instead of 1/sigma^2",
            plain,
            constants(signal=lambda s, o, g: 1.0),
        ),
        *_structural(),
        *_elsewhere(),
    ]


def _structural() -> list[Fault]:
    plain = correct_studies()["rmsprop"]
    return [
        Fault("rmsprop-no-noise", "the noise is left out", plain, noise_times(0.0, "no noise")),
        Fault(
            "rmsprop-noise-root-two",
            "the noise is sqrt(2) times too large",
            plain,
            noise_times(math.sqrt(2), "noise sqrt(2) times too large"),
        ),
        Fault(
            "rmsprop-frozen-u",
            "u stays where it starts",
            plain,
            structure("frozen u", drift=lambda s, t, y, m, v: {"u": torch.zeros_like(y["u"])}),
        ),
        Fault(
            "rmsprop-root-forgotten",
            "the root is forgotten: P = sigma_0 u + epsilon_0",
            plain,
            structure(
                "P = sigma_0 u + epsilon_0",
                drift=lambda s, t, y, mean, v: {"theta": -mean / _without_root(s, y)},
                noise=lambda s, t, y, kick: {"theta": -kick / _without_root(s, y)},
            ),
        ),
        Fault(
            "rmsprop-epsilon-under-root",
            "P = sqrt(sigma_0^2 u + epsilon_0^2): epsilon under the root",
            plain,
            structure(
                "epsilon under the root",
                drift=lambda s, t, y, mean, v: {"theta": -mean / _under_root(s, y)},
                noise=lambda s, t, y, kick: {"theta": -kick / _under_root(s, y)},
            ),
        ),
        Fault(
            "rmsprop-bare-noise",
            "the noise is not preconditioned",
            plain,
            structure("bare noise", noise=lambda s, t, y, kick: {"theta": -kick}),
        ),
        Fault(
            "rmsprop-target-root",
            "u relaxes to the root of diag Sigma",
            plain,
            structure(
                "u relaxes to the root of diag Sigma",
                drift=lambda s, t, y, m, v: {"u": s.constants["c2"] * (v.sqrt() - y["u"])},
            ),
        ),
        Fault(
            "rmsprop-clock",
            "wrong clock: t = k eta instead of t = k eta^2",
            plain,
            clock_times(lambda optimizer: 1 / optimizer.learning_rate, "clock k eta"),
        ),
    ]


def _elsewhere() -> list[Fault]:
    plain = correct_studies()["rmsprop"]
    return [
        Fault(
            "rmsprop-levels-beta",
            "levels that leave beta as it is",
            plain,
            levels=lambda optimizer, oracle, level: (
                replace(optimizer.at_level(level)[0], beta=optimizer.beta),
                oracle.amplified(level),
            ),
        ),
        Fault(
            "rmsprop-levels-epsilon",
            "levels that leave epsilon as it is",
            plain,
            levels=lambda optimizer, oracle, level: (
                replace(optimizer.at_level(level)[0], epsilon=optimizer.epsilon),
                oracle.amplified(level),
            ),
        ),
        Fault(
            "rmsprop-u-is-v",
            "the coordinate u = v is not divided by sigma^2",
            plain,
            optimizer=lambda o: BareV(**{f.name: getattr(o, f.name) for f in fields(o)}),
        ),
        Fault(
            "rmsprop-cold-start",
            "both sides start at u = 0, torch's initial state, without a warm-up",
            plain,
            start=lambda state: State(
                state.step, theta=state.theta, u=torch.zeros_like(state.theta)
            ),
        ),
    ]


def _without_root(sde: Any, y: Components) -> Tensor:
    p: Tensor = sde.sigma0 * y["u"] + sde.epsilon0
    return p


def _under_root(sde: Any, y: Components) -> Tensor:
    p: Tensor = (sde.sigma0**2 * y["u"] + sde.epsilon0**2).sqrt()
    return p


@dataclass(frozen=True, kw_only=True)
class BareV(RMSprop):
    """RMSprop with the coordinate u = v."""

    def to_sde(self, k: int, y: Components, oracle: GradientOracle) -> State:
        return State(k / self.refinement, theta=y["theta"], u=y["v"])

    def from_sde(self, state: State, oracle: GradientOracle) -> dict[str, Tensor]:
        return {"theta": state.theta, "v": state.u}
