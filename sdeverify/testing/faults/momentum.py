"""Planted faults of the SDE of SGD with momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import Components, State
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGDMomentum
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
    """The faults."""
    studies = correct_studies()
    plain, damped, nesterov = (studies[n] for n in ("momentum", "momentum-damped", "nesterov"))
    return [
        Fault("momentum-no-noise", "the noise is left out", plain, noise_times(0.0, "no noise")),
        Fault(
            "momentum-friction-not-over-h",
            "the friction is 1 - mu instead of (1 - mu)/h",
            plain,
            constants(friction=lambda s, o, g: 1 - o.momentum),
        ),
        Fault(
            "momentum-friction-forgotten",
            "the friction is left out",
            plain,
            times("friction", 0.0),
        ),
        Fault("momentum-friction-half", "the friction is halved", plain, times("friction", 0.5)),
        Fault(
            "momentum-eta-for-h",
            "the temperature is eta sigma^2, as for SGD, instead of h sigma^2",
            plain,
            constants(temperature=lambda s, o, g: o.learning_rate * g.scale**2),
        ),
        Fault(
            "momentum-theta-sign",
            "a sign: d theta = -p dt",
            plain,
            structure("d theta = -p dt", drift=lambda s, t, y, mean, v: {"theta": -y["p"]}),
        ),
        Fault(
            "momentum-noise-in-theta",
            "the noise goes into theta instead of p",
            plain,
            structure("noise in theta", noise=lambda s, t, y, kick: {"theta": -kick}),
        ),
        Fault(
            "momentum-clock",
            "wrong clock: t = k eta instead of t = k h",
            plain,
            clock_times(lambda optimizer: optimizer.time_per_step, "clock k eta"),
        ),
        Fault(
            "momentum-levels",
            "levels with eta/l and mu left as it is",
            plain,
            levels=_fixed_mu,
        ),
        Fault(
            "momentum-buffer-sign",
            "the sign of the coordinate: p = +h b",
            plain,
            optimizer=lambda o: WrongSign(learning_rate=o.learning_rate, momentum=o.momentum),
        ),
        Fault(
            "momentum-damping-forgotten",
            "h = sqrt(eta) though the gradient is damped by 1 - d",
            damped,
            constants(
                friction=lambda s, o, g: (1 - o.momentum) / math.sqrt(o.learning_rate),
                temperature=lambda s, o, g: math.sqrt(o.learning_rate) * g.scale**2,
            ),
        ),
        Fault(
            "nesterov-two-gradients",
            "Nesterov's look-ahead is counted as a second gradient in dp",
            nesterov,
            structure(
                "two gradients in dp",
                drift=lambda s, t, y, mean, v: {"p": -s.constants["friction"] * y["p"] - 2 * mean},
            ),
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class FixedMu(SGDMomentum):
    """A level with eta/l whose mu was not moved; its clock is the one that would be right."""

    @property
    def time_per_step(self) -> float:
        return math.sqrt(self.learning_rate / self.refinement)


def _fixed_mu(
    optimizer: Any, oracle: GradientOracle, level: float
) -> tuple[SGDMomentum, GradientOracle]:
    rate = optimizer.learning_rate / level
    spoiled = FixedMu(learning_rate=rate, momentum=optimizer.momentum, refinement=level)
    return spoiled, oracle.amplified(math.sqrt(level))


@dataclass(frozen=True, kw_only=True)
class WrongSign(SGDMomentum):
    """Momentum with p = +h b."""

    def to_sde(self, k: int, y: Components, oracle: GradientOracle) -> State:
        return _flipped(super().to_sde(k, y, oracle))

    def from_sde(self, state: State, oracle: GradientOracle) -> dict[str, Tensor]:
        return super().from_sde(_flipped(state), oracle)


def _flipped(state: State) -> State:
    return State(state.step, **{**state.components, "p": -state.components["p"]})
