"""Planted faults: wrong SDEs, ladders, coordinates and starts, to test what refutes them.

A verification tool is worth what it refutes. Each fault changes one thing of a correct study; the
catalogue is in `sdeverify.testing.faults`, a file for each family of optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sdeverify.base.shapes import Parameters, PerParameter, Tensor
from sdeverify.base.state import Components, State, Time, pack, unpack
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import Derivation, derive
from sdeverify.optimizers.ladders import Levels, SvagLevels
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.description import Description
from sdeverify.sdes.sde import GradientSDE
from sdeverify.study.study import Study

Parts = Mapping[str, Tensor]
Drift = Callable[[GradientSDE, Time, Components, Tensor, Tensor], Parts]
"""(correct SDE, t, y, grad f, diag Sigma) -> the whole drift of some components."""
Kick = Callable[[GradientSDE, Time, Components, Tensor], Parts]
"""(correct SDE, t, y, s F dW) -> the noise of all components, linear in its last argument."""
Change = Callable[[GradientSDE, Optimizer, GradientOracle], GradientSDE]
"""(correct SDE, its optimizer, its oracle) -> the wrong SDE."""


@dataclass(frozen=True)
class Modified(GradientSDE):
    """dy = drift dt + noise, where one or both differ from those of another SDE.

    Args:
        of_sde: the SDE that is changed.
        what: the change in words.
        drift: the components' drift that replaces the SDE's.
        noise: the map from the gradient noise to the state that replaces the SDE's.
    """

    of_sde: GradientSDE
    what: str
    drift: Drift | None = None
    noise: Kick | None = None

    uses_moments = True

    @classmethod
    def changed(
        cls, sde: GradientSDE, what: str, drift: Drift | None = None, noise: Kick | None = None
    ) -> Modified:
        """The SDE with another drift or noise, on the same clock."""
        ratio = sde.learning_rate_ratio
        clock = sde.time_per_level1_step
        return cls(sde.oracle, clock, sde, what, drift, noise, learning_rate_ratio=ratio)

    @property
    def components(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.of_sde.components

    @property
    def claimed_order(self) -> float:  # type: ignore[override]
        return self.of_sde.claimed_order

    @property
    def intensity(self) -> float:
        return self.of_sde.intensity

    @property
    def constants(self) -> Mapping[str, PerParameter]:
        return self.of_sde.constants

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        assert mean is not None and variance is not None
        total = dict(drift_of(self.of_sde, t, y, mean, variance))
        if self.drift is not None:
            total.update(self.drift(self.of_sde, t, y, mean, variance))
        for name, change in self.inject(t, y, mean).items():
            total[name] = total[name] - change
        return total

    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        if self.noise is None:
            return self.of_sde.inject(t, y, increment)
        return self.noise(self.of_sde, t, y, increment)

    @property
    def description(self) -> Description:
        correct = self.of_sde.description
        return replace(correct, name=f"{correct.name}, with a planted fault: {self.what}")


def drift_of(sde: GradientSDE, t: Time, y: Components, mean: Tensor, variance: Tensor) -> Parts:
    """The whole drift of an SDE by component."""
    total = {name: torch.zeros_like(value) for name, value in y.items() if name in sde.components}
    for part in (sde.rest(t, y, mean, variance), sde.inject(t, y, mean)):
        for name, change in part.items():
            total[name] = total[name] + change
    return total


@dataclass(frozen=True)
class WrongLevels(Levels):
    """Levels that change something else than SVAG does, against the SDE of level 1.

    Args:
        change: (optimizer, oracle, level) -> the wrong optimizer and oracle.
    """

    change: Callable[[Any, GradientOracle, float], tuple[Optimizer, GradientOracle]]

    kind, along, cannot_tell = SvagLevels.kind, SvagLevels.along, SvagLevels.cannot_tell

    def at(
        self, optimizer: Optimizer, oracle: GradientOracle, level: float
    ) -> tuple[Optimizer, GradientOracle]:
        return self.change(optimizer, oracle, level)


def planted(correct: Study, change: Change | None = None, fixed: bool = False) -> Derivation:
    """What a study takes as `sde`: the correct SDE of each rung, changed.

    Args:
        correct: the study whose SDE is changed.
        change: what is changed; None for nothing.
        fixed: whether all rungs have the SDE of level 1.
    """

    def build(optimizer: Optimizer, oracle: GradientOracle, **options: Any) -> GradientSDE:
        if fixed:
            optimizer, oracle = correct.optimizer, correct.oracle
        sde = derive(optimizer, oracle, correct.sde, **options)
        return sde if change is None else change(sde, optimizer, oracle)

    return build


@dataclass(frozen=True)
class Fault:
    """One planted fault; of the four changes, one is given.

    Args:
        name: letters, digits and '-'.
        what: plain English.
        correct: the study that it spoils.
        sde: changes the SDE.
        levels: spoils the SVAG levels, see `WrongLevels`.
        optimizer: changes the optimizer, its coordinates say; the SDE stays the correct one.
        start: changes the start of both sides.
    """

    name: str
    what: str
    correct: Study
    sde: Change | None = None
    levels: Callable[[Any, GradientOracle, float], tuple[Optimizer, GradientOracle]] | None = None
    optimizer: Callable[[Any], Optimizer] | None = None
    start: Callable[[State], State] | None = None

    @property
    def keeps_chain(self) -> bool:
        """Whether the discrete side is the correct study's."""
        return self.levels is None and self.optimizer is None and self.start is None

    @property
    def study(self) -> Study:
        """The spoiled study."""
        base = self.correct
        ladder = base.ladder
        if self.levels is not None:
            ladder = WrongLevels([rung.label for rung in base.rungs()], self.levels)
        return replace(
            base,
            name=self.name,
            title=f"{base.title}, planted fault: {self.what}",
            optimizer=base.optimizer if self.optimizer is None else self.optimizer(base.optimizer),
            start=base.start if self.start is None else self.start(base.start),
            ladder=ladder,
            sde=planted(base, self.sde, fixed=self.levels is not None),
        )


def constants(**changes: Callable[[Any, Any, Any], float]) -> Change:
    """Replaces constants of the SDE by functions of (correct SDE, optimizer, oracle)."""

    def change(sde: GradientSDE, optimizer: Optimizer, oracle: GradientOracle) -> GradientSDE:
        new: dict[str, Any] = {n: make(sde, optimizer, oracle) for n, make in changes.items()}
        return replace(sde, **new)

    return change


def times(constant: str, factor: float) -> Change:
    """Multiplies one constant."""
    return constants(**{constant: lambda sde, optimizer, oracle: factor * getattr(sde, constant)})


def structure(what: str, drift: Drift | None = None, noise: Kick | None = None) -> Change:
    """Replaces the drift of some components, or the noise of all."""
    return lambda sde, optimizer, oracle: Modified.changed(sde, what, drift, noise)


def noise_times(factor: float, what: str) -> Change:
    """Multiplies all noise."""

    def noise(sde: GradientSDE, t: Time, y: Components, kick: Tensor) -> Parts:
        return {name: factor * part for name, part in sde.inject(t, y, kick).items()}

    return structure(what, noise=noise)


def clock_times(factor: Callable[[Optimizer], float], what: str) -> Change:
    """The SDE passes through `factor` units of its time where one unit is meant."""

    def change(sde: GradientSDE, optimizer: Optimizer, oracle: GradientOracle) -> GradientSDE:
        speed = factor(optimizer)

        def drift(
            sde: GradientSDE, t: Time, y: Components, mean: Tensor, variance: Tensor
        ) -> Parts:
            return {n: speed * d for n, d in drift_of(sde, t, y, mean, variance).items()}

        def noise(sde: GradientSDE, t: Time, y: Components, kick: Tensor) -> Parts:
            return {n: speed**0.5 * d for n, d in sde.inject(t, y, kick).items()}

        return Modified.changed(sde, what, drift, noise)

    return change


def stratonovich(what: str) -> Change:
    """Adds half of sum_j (g_j . grad) g_j to the drift, by central differences along each g_j."""

    def drift(sde: GradientSDE, t: Time, y: Components, mean: Tensor, variance: Tensor) -> Parts:
        at = pack({name: y[name] for name in sde.components}, sde.components)
        extra, h = torch.zeros_like(at), 1e-5
        for unit in torch.eye(sde.noise_dim, dtype=at.dtype):
            v = unit.expand(len(at), -1)
            along = h * sde.g_prod(t, at, v)
            difference = sde.g_prod(t, at + along, v) - sde.g_prod(t, at - along, v)
            extra = extra + difference / (4 * h)
        correct = drift_of(sde, t, y, mean, variance)
        return {n: correct[n] + e for n, e in unpack(extra, sde.components).items()}

    return structure(what, drift=drift)
