"""How hyperparameters move as the step goes to 0: SVAG levels and learning-rate ladders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import xarray as xr

from sdeverify.base.arguments import number, numbers
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adaptive import Adaptive
from sdeverify.optimizers.optimizer import Optimizer


def svag(
    optimizer: Optimizer, oracle: GradientOracle, level: float
) -> tuple[Optimizer, GradientOracle]:
    """SVAG at a level: a finer chain with larger noise that has the same SDE.

    SGD: eta/l, noise sqrt(l); momentum: eta/l^2, 1 - mu over l, noise sqrt(l); RMSprop, Adam,
    AdamW: eta/l, 1 - beta over l^2, epsilon l, lambda/l, noise l. Level 1 returns the arguments
    themselves. (Li, Malladi, Arora 2021, section 4; Malladi et al. 2022, definition 6.1.)

    Args:
        level: l >= 1, real.

    Raises:
        InvalidInputError: level < 1.
    """
    if not 1 <= number(level, "SVAG's level") < math.inf:
        raise InvalidInputError(
            f"SVAG's level is a real number >= 1 (1 is the optimizer itself); got {level}."
        )
    if level == 1:
        return optimizer, oracle
    refined, amplification = optimizer.at_level(level)
    return refined, oracle.amplified(amplification)


@dataclass(frozen=True)
class Rung:
    """One step of a ladder: a chain, its oracle, and its place on the ladder.

    Args:
        clock: the ladder's time in one unit of the SDE's; not 1 where the SDE's clock does not
            pass through the same time on every rung.
    """

    label: float
    optimizer: Optimizer
    oracle: GradientOracle
    clock: float = 1.0

    @property
    def time_per_step(self) -> float:
        """The ladder's step: its time in one own step."""
        return self.optimizer.time_per_step * self.clock

    def timed(self, errors: xr.Dataset) -> xr.Dataset:
        """A dataset of this rung with its time and its step on the ladder's clock."""
        if self.clock == 1:
            return errors
        times = {n: self.clock * float(errors.attrs[n]) for n in _TIMES if n in errors.attrs}
        return errors.assign_coords(time=errors["time"] * self.clock).assign_attrs(times)


_TIMES = ("time_per_step", "time_per_level1_step")


class Ladder(ABC):
    """A family of discrete runs along which the step goes to 0 over one fixed horizon."""

    kind: ClassVar[str]
    label_name: ClassVar[str]
    cannot_tell: ClassVar[str]
    """What a verdict on this ladder says nothing about."""

    @abstractmethod
    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        """The runs, from the coarsest to the finest."""


@dataclass(frozen=True)
class SvagLevels(Ladder):
    """SVAG at several levels: the SDE stays, the chain refines. It tests drift and noise alike.

    Args:
        levels: real numbers >= 1, ascending; level 1 is the optimizer.
    """

    levels: Sequence[float]

    kind = "svag"
    label_name = "level"
    cannot_tell = (
        "Along SVAG levels the SDE is fixed while the chain refines, so a wrong drift or a wrong "
        "noise leaves an error that does not vanish. Effects that fall as fast as the step itself, "
        "such as terms of second order in the SDE, are not seen; nor is the size of the error at "
        "other learning rates, batch sizes or horizons."
    )

    def __post_init__(self) -> None:
        listed = numbers(self.levels, "levels")
        if not listed or not all(a < b for a, b in pairwise(listed)):
            raise InvalidInputError(
                f"the ladder's levels must go from coarse to fine; got {listed}."
            )

    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        return [Rung(float(lv), *svag(optimizer, oracle, lv)) for lv in self.levels]


@dataclass(frozen=True)
class LearningRates(Ladder):
    """Smaller learning rates at the same noise (SGD, momentum), over the same SDE time.

    For RMSprop and Adam the noise scale has to grow as sigma = sigma_0/eta, which only a
    `GaussianNoise` of given sigma can do; on real data use `SvagLevels` or `BallisticRates`.

    Args:
        rates: descending learning rates, the first being that of the optimizer.
    """

    rates: Sequence[float]

    kind = "learning_rate"
    label_name = "learning_rate"
    cannot_tell = (
        "Along learning rates at fixed noise any diffusion of size sqrt(eta), none included, has "
        "order 1 in the step: this ladder tests the drift and the clock, not the noise. A verdict "
        "on the noise rests on SVAG levels."
    )

    def __post_init__(self) -> None:
        _descending(self.rates)

    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        _starts_at_own_rate(self.rates, optimizer)
        rungs = []
        for rate in self.rates:
            at_rate = optimizer.at_learning_rate(rate)
            fitting = oracle
            if optimizer.refinement_power == 2:
                fitting = _rescaled(oracle, optimizer.learning_rate / rate)
            rungs.append(Rung(float(rate), at_rate, fitting))
        return rungs


@dataclass(frozen=True)
class BallisticRates(Ladder):
    """Smaller learning rates of RMSprop and Adam at fixed noise, (1 - beta)/eta held fixed.

    Clock t = k eta. Unlike `LearningRates` it keeps the noise scale, so it goes on real data. The
    signal does not vanish beside the noise: only the SDE that keeps it (`keep_signal=True`) has
    order 1, in eta (Compagnoni et al. 2025, arXiv 2411.15958).

    Args:
        rates: descending learning rates, the first being that of the optimizer.
    """

    rates: Sequence[float]

    kind = "ballistic"
    label_name = "learning_rate"
    cannot_tell = (
        "Along learning rates at fixed noise, with (1 - beta)/eta fixed, the noise itself falls "
        "with the step: any diffusion of size sqrt(eta), none included, has order 1. This ladder "
        "tests the drift and the clock, and whether the signal is kept. A verdict on the noise "
        "rests on SVAG levels."
    )

    def __post_init__(self) -> None:
        _descending(self.rates)

    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        if not isinstance(optimizer, Adaptive):
            raise UnsupportedError(
                f"BallisticRates moves the betas of RMSprop and Adam with the rate; "
                f"{optimizer.name} has none. Use LearningRates."
            )
        _starts_at_own_rate(self.rates, optimizer)
        slower = [optimizer.at_ballistic_rate(rate) for rate in self.rates]
        return [Rung(o.learning_rate, o, oracle, 1 / o.learning_rate) for o in slower]


def _starts_at_own_rate(rates: Sequence[float], optimizer: Optimizer) -> None:
    if abs(rates[0] - optimizer.learning_rate) > 1e-12 * optimizer.learning_rate:
        raise InvalidInputError(
            "the first rate of the ladder is the optimizer's own, "
            f"{optimizer.learning_rate:g}; got {rates[0]:g}."
        )


def _rescaled(oracle: GradientOracle, factor: float) -> GradientOracle:
    try:
        return replace(oracle, noise=oracle.noise.rescaled(factor))
    except UnsupportedError as refusal:
        raise UnsupportedError(
            "the learning-rate ladder of an adaptive optimizer needs noise of scale sigma_0/eta: "
            f"{refusal} Or take SvagLevels or BallisticRates, which need no such noise."
        ) from refusal


def _descending(rates: Sequence[float]) -> None:
    listed = numbers(rates, "rates")
    if not listed or not all(a > b for a, b in pairwise(listed)) or not listed[-1] > 0:
        raise InvalidInputError(
            f"the ladder's rates must go from coarse to fine, all of them > 0; got {listed}."
        )
