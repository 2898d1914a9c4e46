"""How hyperparameters move as the step goes to 0: SVAG levels and learning-rate ladders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import xarray as xr

from sdeverify.analysis import ladder as side_by_side
from sdeverify.base.arguments import number, numbers
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer


def svag(
    optimizer: Optimizer, oracle: GradientOracle, level: float
) -> tuple[Optimizer, GradientOracle]:
    """SVAG at a level: a finer chain with larger noise that has the same SDE.

    SGD: eta/l, noise sqrt(l); momentum: eta/l^2, 1 - mu over l, noise sqrt(l); RMSprop, Adam,
    AdamW: eta/l, 1 - beta over l^2, epsilon l, lambda/l, noise l. Level 1 returns the arguments
    themselves. (Li, Malladi, Arora 2021, section 4; Malladi et al. 2022, definition 6.1.)

    Args:
        optimizer, oracle: at level 1.
        level: l >= 1, real.

    Raises:
        InvalidInputError: level < 1.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(4))
        >>> optimizer, finer = sv.svag(sv.SGD(learning_rate=0.2), oracle, level=4)
        >>> optimizer.learning_rate, finer.scale
        (0.05, 1.0)
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


HALVINGS = 6
"""Rungs of learning rates for one-step moments."""
_TIMES = ("time_per_step", "time_per_level1_step")


class Ladder(ABC):
    """A family of discrete runs along which the step goes to 0 over one fixed horizon.

    Attributes:
        kind: its name in datasets.
        label_name: what the label of a rung is, "level" say.
        along: in words, along what the rungs go.
        cannot_tell: what a verdict on this ladder says nothing about.
        tests_noise: whether an SDE with a wrong noise leaves an error that does not vanish. Support
            is then given only where the same data refute the SDE without its noise.
        over_time: whether figures go by SDE time instead of level-1 steps.

    Example:
        >>> ladder = sv.SvagLevels([1, 2])
        >>> isinstance(ladder, sv.Ladder), ladder.kind, ladder.label_name
        (True, 'svag', 'level')
    """

    kind: ClassVar[str]
    label_name: ClassVar[str]
    along: ClassVar[str]
    cannot_tell: ClassVar[str]
    tests_noise: ClassVar[bool] = True
    over_time: ClassVar[bool] = False

    @abstractmethod
    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        """The runs, from the coarsest to the finest."""

    def fine(self, optimizer: Optimizer) -> Ladder:
        """The ladder with steps so small that one-step moments are near their limit.

        A ladder that has no such form of its own is taken as it is.
        """
        return self

    def claimed_order(self, order: float) -> float:
        """The order that an SDE of weak order `order` claims along this ladder."""
        return order

    def side_by_side(
        self, rungs: Sequence[Rung], errors: Sequence[xr.Dataset], claimed_order: float
    ) -> xr.Dataset:
        """The weak errors of the rungs on the ladder's clock, for `estimate_order`."""
        timed = [rung.timed(each) for rung, each in zip(rungs, errors, strict=True)]
        labels = {self.label_name: np.asarray([rung.label for rung in rungs])}
        return side_by_side(timed, self.kind, claimed_order, self.tests_noise, **labels)

    @property
    def attributes(self) -> dict[str, str | bool]:
        """What the results of a study say of its ladder."""
        return {
            "ladder": self.kind,
            "along": self.along,
            "over_time": self.over_time,
            "cannot_tell": self.cannot_tell,
        }


@dataclass(frozen=True)
class Levels(Ladder):
    """Chains that refine towards one SDE: it tests drift and noise alike.

    Order 1 is claimed whatever the SDE's own: the noise of a finer chain is more skewed.

    Args:
        levels: real numbers >= 1, ascending; level 1 is the optimizer.
    """

    levels: float | Sequence[float]

    label_name = "level"

    def __post_init__(self) -> None:
        listed = numbers(self.levels, "levels")
        if not listed or not all(a < b for a, b in pairwise(listed)):
            raise InvalidInputError(
                f"the ladder's levels must go from coarse to fine; got {listed}."
            )

    @abstractmethod
    def at(
        self, optimizer: Optimizer, oracle: GradientOracle, level: float
    ) -> tuple[Optimizer, GradientOracle]:
        """The chain of a level above 1, and its oracle."""

    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        levels = numbers(self.levels, "levels")
        sides = (
            (optimizer, oracle) if level == 1 else self.at(optimizer, oracle, level)
            for level in levels
        )
        return [Rung(level, *side) for level, side in zip(levels, sides, strict=True)]

    def fine(self, optimizer: Optimizer) -> Ladder:
        return replace(self, levels=fine_levels(optimizer))

    def claimed_order(self, order: float) -> float:
        return 1.0


def fine_levels(optimizer: Optimizer) -> list[int]:
    """Levels whose steps are far below level 1's, and still well above rounding."""
    return [2**i for i in (range(4, 9) if optimizer.refinement_power == 1 else range(2, 7))]


@dataclass(frozen=True)
class SvagLevels(Levels):
    """SVAG at several levels: the SDE stays, the chain refines. It tests drift and noise alike.

    Args:
        levels: real numbers >= 1, ascending; level 1 is the optimizer.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> rungs = sv.SvagLevels([1, 2, 4]).rungs(sv.SGD(learning_rate=0.2), oracle)
        >>> [rung.optimizer.learning_rate for rung in rungs]
        [0.2, 0.1, 0.05]
    """

    kind = "svag"
    along = "SVAG levels (the chain refines, its SDE stays)"
    cannot_tell = (
        "Along SVAG levels the SDE is fixed while the chain refines, so a wrong drift or a wrong "
        "noise leaves an error that does not vanish. Effects that fall as fast as the step itself, "
        "such as terms of second order in the SDE, are not seen; nor is the size of the error at "
        "other learning rates, batch sizes or horizons."
    )

    def at(
        self, optimizer: Optimizer, oracle: GradientOracle, level: float
    ) -> tuple[Optimizer, GradientOracle]:
        return svag(optimizer, oracle, level)


@dataclass(frozen=True)
class Rates(Ladder):
    """Smaller learning rates over the same SDE time; they test the drift, not the noise.

    Args:
        rates: descending learning rates, the first being that of the optimizer.
    """

    rates: float | Sequence[float]

    label_name = "learning_rate"
    tests_noise = False

    def __post_init__(self) -> None:
        listed = numbers(self.rates, "rates")
        if not listed or not all(a > b for a, b in pairwise(listed)) or not listed[-1] > 0:
            raise InvalidInputError(
                f"the ladder's rates must go from coarse to fine, all of them > 0; got {listed}."
            )

    @abstractmethod
    def at(self, optimizer: Optimizer, oracle: GradientOracle, rate: float) -> Rung:
        """The run of a rate."""

    def rungs(self, optimizer: Optimizer, oracle: GradientOracle) -> list[Rung]:
        rates = numbers(self.rates, "rates")
        if abs(rates[0] - optimizer.learning_rate) > 1e-12 * optimizer.learning_rate:
            raise InvalidInputError(
                "the first rate of the ladder is the optimizer's own, "
                f"{optimizer.learning_rate:g}; got {rates[0]:g}."
            )
        return [self.at(optimizer, oracle, rate) for rate in rates]

    def fine(self, optimizer: Optimizer) -> Ladder:
        return replace(self, rates=[optimizer.learning_rate / 2**i for i in range(HALVINGS)])


@dataclass(frozen=True)
class LearningRates(Rates):
    """Smaller learning rates at the same noise (SGD, momentum), over the same SDE time.

    For RMSprop and Adam the noise scale has to grow as sigma = sigma_0/eta, which only a noise with
    a free scale can do, such as `GaussianNoise`; on real data use `SvagLevels` or `BallisticRates`.

    Args:
        rates: descending learning rates, the first being that of the optimizer.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> rungs = sv.LearningRates([0.2, 0.1]).rungs(sv.SGD(learning_rate=0.2), oracle)
        >>> [rung.optimizer.learning_rate for rung in rungs]
        [0.2, 0.1]
    """

    kind = "learning_rate"
    over_time = True
    along = "learning rates (the step goes to 0, and with it the noise)"
    cannot_tell = (
        "Along learning rates at fixed noise any diffusion of size sqrt(eta), none included, has "
        "order 1 in the step: this ladder tests the drift and the clock, not the noise. A verdict "
        "on the noise rests on SVAG levels."
    )

    def at(self, optimizer: Optimizer, oracle: GradientOracle, rate: float) -> Rung:
        if optimizer.refinement_power == 2:
            oracle = _rescaled(oracle, optimizer.learning_rate / rate)
        return Rung(float(rate), optimizer.at_learning_rate(rate), oracle)


@dataclass(frozen=True)
class BallisticRates(Rates):
    """Smaller learning rates of RMSprop and Adam at fixed noise, (1 - beta)/eta held fixed.

    Clock t = k eta. Unlike `LearningRates` it keeps the noise scale, so it goes on real data. The
    signal does not vanish beside the noise: only the SDE that keeps it (`keep_signal=True`) has
    order 1, in eta (Compagnoni et al. 2025, arXiv 2411.15958).

    Args:
        rates: descending learning rates, the first being that of the optimizer.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> rmsprop = sv.RMSprop(learning_rate=0.1, beta=0.9)
        >>> rungs = sv.BallisticRates([0.1, 0.05]).rungs(rmsprop, oracle)
        >>> [round(rung.optimizer.beta, 6) for rung in rungs]
        [0.9, 0.95]
    """

    kind = "ballistic"
    along = "learning rates with (1 - β)/η fixed (the step goes to 0, and with it the noise)"
    cannot_tell = (
        "Along learning rates at fixed noise, with (1 - beta)/eta fixed, the noise itself falls "
        "with the step: any diffusion of size sqrt(eta), none included, has order 1. This ladder "
        "tests the drift and the clock, and whether the signal is kept. A verdict on the noise "
        "rests on SVAG levels."
    )

    def at(self, optimizer: Optimizer, oracle: GradientOracle, rate: float) -> Rung:
        slower = optimizer.at_ballistic_rate(rate)
        return Rung(slower.learning_rate, slower, oracle, 1 / slower.learning_rate)


def _rescaled(oracle: GradientOracle, factor: float) -> GradientOracle:
    try:
        return replace(oracle, noise=oracle.noise.rescaled(factor))
    except UnsupportedError as refusal:
        raise UnsupportedError(
            "the learning-rate ladder of an adaptive optimizer needs noise of scale sigma_0/eta: "
            f"{refusal} Or take SvagLevels or BallisticRates, which need no such noise."
        ) from refusal
