"""How hyperparameters move as the step goes to 0: SVAG levels and learning-rate ladders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.gaussian import GaussianNoise
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.oracle import GradientOracle


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
    if not level >= 1:
        raise InvalidInputError(
            f"SVAG's level is a real number >= 1 (1 is the optimizer itself); got {level}."
        )
    if level == 1:
        return optimizer, oracle
    refined, amplification = optimizer.at_level(level)
    return refined, oracle.amplified(amplification)


@dataclass(frozen=True)
class Rung:
    """One step of a ladder: a chain, its oracle, and its place on the ladder."""

    label: float
    optimizer: Optimizer
    oracle: GradientOracle

    @property
    def time_per_step(self) -> float:
        """The ladder's step: SDE time in one own step."""
        return self.optimizer.time_per_step


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
        _ascending("levels", self.levels)

    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        return [Rung(float(lv), *svag(optimizer, oracle, lv)) for lv in self.levels]


@dataclass(frozen=True)
class LearningRates(Ladder):
    """Smaller learning rates at the same noise (SGD, momentum), over the same SDE time.

    For RMSprop and Adam the noise scale has to grow as sigma = sigma_0/eta, which only a
    `GaussianNoise` of given sigma can do; on real data use `SvagLevels`.

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
        _ascending("rates", [-r for r in self.rates])

    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        if abs(self.rates[0] - optimizer.learning_rate) > 1e-12 * optimizer.learning_rate:
            raise InvalidInputError(
                "the first rate of the ladder is the optimizer's own, "
                f"{optimizer.learning_rate:g}; got {self.rates[0]:g}."
            )
        rungs = []
        for rate in self.rates:
            at_rate = optimizer.at_learning_rate(rate)
            fitting = oracle
            if optimizer.refinement_power == 2:
                fitting = _with_noise_scaled(oracle, optimizer.learning_rate / rate)
            rungs.append(Rung(float(rate), at_rate, fitting))
        return rungs


def _with_noise_scaled(oracle: GradientOracle, factor: float) -> GradientOracle:
    if not isinstance(oracle.noise, GaussianNoise):
        raise UnsupportedError(
            "the learning-rate ladder of an adaptive optimizer needs noise of scale sigma_0/eta; "
            f"{type(oracle.noise).__name__} has a fixed one. Use SvagLevels, or GaussianNoise."
        )
    return replace(oracle, noise=replace(oracle.noise, sigma=oracle.noise.sigma * factor))


def _ascending(name: str, values: Sequence[float]) -> None:
    if len(values) < 1 or any(b <= a for a, b in pairwise(values)):
        raise InvalidInputError(f"the ladder's {name} must go from coarse to fine; got {values}.")
