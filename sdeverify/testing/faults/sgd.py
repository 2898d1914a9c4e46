"""Planted faults of SGD's SDEs of first and second order."""

from __future__ import annotations

from dataclasses import replace

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import Components, Time
from sdeverify.noise import GaussianNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import Optimizer
from sdeverify.sdes import GradientSDE
from sdeverify.testing.faults.correct import correct_studies
from sdeverify.testing.faults.fault import (
    Fault,
    Parts,
    clock_times,
    constants,
    noise_times,
    stratonovich,
    structure,
    times,
)


def faults() -> list[Fault]:
    """The faults, SVAG's first."""
    studies = correct_studies()
    sgd, decay, torus = studies["sgd"], studies["sgd-decay"], studies["sgd-torus"]
    second = studies["sgd-second"]
    return [
        Fault("sgd-no-noise", "the noise is left out", sgd, noise_times(0.0, "no noise")),
        Fault("sgd-hot", "the temperature eta sigma^2 is doubled", sgd, times("temperature", 2)),
        Fault("sgd-cold", "the temperature is halved", sgd, times("temperature", 0.5)),
        Fault(
            "sgd-eta-not-root",
            "the noise has size eta sigma instead of sqrt(eta) sigma",
            sgd,
            constants(temperature=lambda s, o, g: (o.learning_rate * g.scale) ** 2),
        ),
        Fault(
            "sgd-batch-forgotten",
            "sigma is taken for 1: the batch size is forgotten",
            sgd,
            constants(temperature=lambda s, o, g: s.temperature / g.scale**2),
        ),
        Fault(
            "sgd-sigma-not-squared",
            "the temperature is eta sigma instead of eta sigma^2",
            sgd,
            constants(temperature=lambda s, o, g: s.temperature / g.scale),
        ),
        Fault(
            "sgd-ascent",
            "the sign of the drift: the loss is climbed",
            sgd,
            structure("sign of the drift", drift=lambda s, t, y, mean, v: {"theta": mean}),
        ),
        Fault(
            "sgd-stratonovich",
            "the equation is read in the sense of Stratonovich, not of Ito",
            sgd,
            stratonovich("read in the sense of Stratonovich"),
        ),
        Fault(
            "sgd-fast-clock",
            "wrong clock: one step is taken for 2 eta of time",
            sgd,
            clock_times(lambda optimizer: 2.0, "clock twice as fast"),
        ),
        Fault(
            "sgd-constant-noise",
            "the noise's dependence on theta is forgotten: Sigma = 1 everywhere",
            sgd,
            structure("Sigma = 1", noise=_unit_noise),
        ),
        Fault(
            "sgd-decay-forgotten",
            "the weight decay is forgotten",
            decay,
            constants(weight_decay=lambda s, o, g: 0.0),
        ),
        Fault("sgd-decay-sign", "the sign of the weight decay", decay, times("weight_decay", -1.0)),
        Fault(
            "sgd-one-quiet-parameter",
            "the noise is missing in the second of two parameters",
            torus,
            structure("no noise in theta[1]", noise=_first_only),
        ),
        Fault(
            "sgd-diagonal-noise",
            "the noise of the two parameters is taken for uncorrelated",
            torus,
            _uncorrelated,
        ),
        Fault(
            "sgd-levels-quiet",
            "SVAG's levels shrink eta without amplifying the noise",
            sgd,
            levels=lambda optimizer, oracle, level: (optimizer.at_level(level)[0], oracle),
        ),
        Fault(
            "sgd-levels-loud",
            "SVAG's levels amplify the noise l times instead of sqrt(l) times",
            sgd,
            levels=lambda optimizer, oracle, level: (
                optimizer.at_level(level)[0],
                oracle.amplified(level),
            ),
        ),
        Fault(
            "second-missing",
            "the first-order SDE claims order 2: no correction of the drift",
            second,
            constants(learning_rate=lambda s, o, g: 0.0),
        ),
        Fault(
            "second-sign",
            "the sign of the second-order correction",
            second,
            times("learning_rate", -1.0),
        ),
        Fault(
            "second-half",
            "the correction without its factor 1/2: (eta/2) |grad f|^2",
            second,
            times("learning_rate", 2.0),
        ),
        Fault(
            "second-hot",
            "the temperature is doubled under a claim of order 2",
            second,
            times("temperature", 2.0),
        ),
        Fault(
            "second-stratonovich",
            "Stratonovich's drift under a claim of order 2",
            second,
            stratonovich("read in the sense of Stratonovich"),
        ),
    ]


def _unit_noise(sde: GradientSDE, t: Time, y: Components, kick: Tensor) -> Parts:
    return sde.inject(t, y, kick / sde.oracle.variance(y["theta"]).sqrt())


def _first_only(sde: GradientSDE, t: Time, y: Components, kick: Tensor) -> Parts:
    return sde.inject(t, y, kick * torch.tensor([1.0, 0.0], dtype=kick.dtype))


def _uncorrelated(sde: GradientSDE, optimizer: Optimizer, oracle: GradientOracle) -> GradientSDE:
    def factor(theta: Tensor) -> Tensor:
        return torch.diag_embed(oracle.variance(theta).sqrt())

    diagonal = GaussianNoise(factor, sigma=oracle.scale, columns=oracle.dim)
    return replace(sde, oracle=replace(oracle, noise=diagonal))
