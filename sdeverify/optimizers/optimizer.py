"""An optimizer is a pure update rule on ensembles, fed with gradients from outside."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, final

import torch

from sdeverify.base.arguments import number
from sdeverify.base.shapes import Parameters, PerParameter, Tensor, is_set
from sdeverify.base.state import Components, State
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.rules import BatchRule, Change
from sdeverify.sdes.sde import GradientSDE

Option = str | tuple[str, int]
"""An option of a torch param group, or one entry of an option that is a tuple: ("betas", 0)."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """A discrete optimizer, and all that the package knows of it.

    A class that names `torch_classes` is found by whatever reads, scales or verifies a live torch
    optimizer, wherever it is written. `rules`, `betas` and `factors` say how a batch factor moves
    it; SVAG levels and learning-rate ladders follow from the same rule.

    Args:
        learning_rate: eta, the largest of all param groups' (eta_ref), which sets the clock.
        learning_rate_ratio: the learning rate at a level-1 step in units of `learning_rate`, one
            number or one for each parameter; None means 1. It carries schedules and param groups.
        refinement: the optimizer's own steps in one level-1 step (1 unless made by a ladder).

    Example:
        >>> adam = sv.Adam(learning_rate=0.1)
        >>> isinstance(adam, sv.Optimizer), adam.components, adam.sde_components
        (True, ('theta', 'm', 'v'), ('theta', 'm', 'u'))
    """

    learning_rate: float
    learning_rate_ratio: Callable[[float], PerParameter] | None = None
    refinement: float = 1.0

    name: ClassVar[str]
    components: ClassVar[tuple[str, ...]]
    """The optimizer's own state, in torch's terms: theta and its buffers."""
    sde_components: ClassVar[tuple[str, ...]]
    """The same in the SDE's coordinates."""
    refinement_power: ClassVar[int]
    """One level-1 step is level**refinement_power own steps at SVAG's `level`."""

    torch_classes: ClassVar[tuple[type[torch.optim.Optimizer], ...]] = ()
    """The torch classes that it is; matched by exact type, and not inherited."""
    options: ClassVar[Mapping[str, Option]] = {}
    """Its hyperparameters in a param group, apart from the learning rate."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that must have one value in all param groups."""
    refused: ClassVar[Mapping[str, str]] = {
        "maximize": "the SDEs are written for minimisation; minimise the negative loss"
    }
    """Options that no SDE covers where they are set, and why."""
    buffers: ClassVar[Mapping[str, str]] = {}
    """Its components besides theta, and torch's names for them."""
    needs_buffers: ClassVar[bool] = False
    """Whether its SDE has no start before the first step."""

    rules: ClassVar[tuple[BatchRule, ...]] = ()
    """The rules that scale it with the batch: the one that keeps its SDE, then its rivals."""
    caveats: ClassVar[Mapping[str, str]] = {}
    """What a rival does not keep, by its name."""
    betas: ClassVar[tuple[str, ...]] = ()
    """Its decay rates: hyperparameters of which a rule moves 1 - beta."""
    factors: ClassVar[Mapping[str, str]] = {}
    """Other hyperparameters and components that move, and the factor of `Change` they move by."""

    def __post_init__(self) -> None:
        number(self.refinement, f"{self.name}: refinement")
        if not 0 < number(self.learning_rate, f"{self.name}: learning_rate") < math.inf:
            raise InvalidInputError(
                f"{self.name}: the learning rate must be > 0 and finite; got {self.learning_rate}."
            )

    @property
    @abstractmethod
    def time_per_step(self) -> float:
        """SDE time in one of the optimizer's own steps."""

    @property
    def time_per_level1_step(self) -> float:
        """SDE time in one level-1 step."""
        return self.time_per_step * self.refinement

    @property
    def title(self) -> str:
        """What it is called above a table."""
        return self.name

    @property
    def hyperparameters(self) -> dict[str, PerParameter]:
        """All hyperparameters by torch's names; by default those of `options`."""
        named = {o if isinstance(o, str) else name: name for name, o in self.options.items()}
        own = {option: getattr(self, name) for option, name in named.items()}
        return {"lr": self.learning_rate, **own}

    def init(self, theta: Parameters) -> dict[str, Tensor]:
        """The state that torch starts from: theta and zero buffers."""
        return {n: theta if n == "theta" else torch.zeros_like(theta) for n in self.components}

    @abstractmethod
    def advance(self, k: int, y: Components, gradient: Parameters) -> dict[str, Tensor]:
        """The update rule: the state after own step k (counted from 0) with this noisy gradient.

        It may work in the memory of y, which is lost to the caller; the gradient is unchanged.
        """

    @final
    def step(self, k: int, y: Components, gradient: Parameters) -> dict[str, Tensor]:
        """`advance` on copies: y is unchanged."""
        return self.advance(k, {name: value.clone() for name, value in y.items()}, gradient)

    def __init_subclass__(cls, **arguments: object) -> None:
        """Refuses a rule that ensembles would not take."""
        super().__init_subclass__(**arguments)
        if "step" in vars(cls):
            raise InvalidInputError(
                f"{cls.__name__} defines step, which follows from advance(k, y, gradient). Write "
                "the update rule as `advance`; it may work in the memory of y."
            )

    def to_sde(self, k: int, y: Components, oracle: GradientOracle) -> State:
        """The state before own step k in the SDE's coordinates; by default its own."""
        return State(k / self.refinement, **y)

    def from_sde(self, state: State, oracle: GradientOracle) -> dict[str, Tensor]:
        """The inverse of `to_sde`."""
        return only(state.components, self.sde_components, self.name)

    def sde(self, oracle: GradientOracle, *args: Any, **options: Any) -> GradientSDE:
        """Its first-order SDE with the constants of this run.

        Raises:
            UnsupportedError: there is none for this optimizer or this oracle.
        """
        raise UnsupportedError(
            f"{type(self).__name__} names no SDE. Give it a method sde(oracle), or pass "
            "sde=function, where function(optimizer, oracle) is the GradientSDE."
        )

    def at_level(self, level: float) -> tuple[Optimizer, float]:
        """The optimizer at SVAG's `level` and the amplification of its noise: the same SDE.

        That of a batch smaller by level**refinement_power, whose noise the amplification supplies.
        """
        factor = level**self.refinement_power
        finer = self.learning_rate / self._rule.change(factor).learning_rate
        return self.at_learning_rate(finer), math.sqrt(factor)

    def at_learning_rate(self, learning_rate: float) -> Optimizer:
        """The optimizer of the learning-rate ladder, with the SDE's own constants held fixed."""
        kappa = self._rule.kappa(learning_rate / self.learning_rate)
        return replace(self.changed(self._rule.change(kappa)), learning_rate=learning_rate)

    @property
    def _rule(self) -> BatchRule:
        """The rule that keeps its SDE."""
        if not self.rules:
            raise UnsupportedError(
                f"{type(self).__name__} has no levels: its class names no `rules`, the one that "
                "keeps its SDE first."
            )
        return self.rules[0]

    def changed(self, change: Change) -> Optimizer:
        """The optimizer with its hyperparameters moved, on the same time axis."""
        moving = {f.name for f in fields(self)} & {*self.betas, *self.factors}
        moved: dict[str, Any] = {n: self.moved(n, getattr(self, n), change) for n in moving}
        return replace(
            self,
            learning_rate=self.learning_rate * change.learning_rate,
            refinement=self.refinement * change.steps,
            **moved,
        )

    @classmethod
    def moved(cls, name: str, value: Any, change: Change) -> Any:
        """A hyperparameter or a component moved by the factors of a rule."""
        if name in cls.betas:
            return change.relaxed(value)
        factor = getattr(change, cls.factors[name]) if name in cls.factors else 1
        return value if factor == 1 else value * factor

    @classmethod
    def sde_factors(cls, change: Change) -> Mapping[str, float]:
        """The factors of those components in the SDE's coordinates that a rule moves."""
        return {}

    @classmethod
    def reads(cls, group: Mapping[str, Any]) -> bool:
        """Whether a param group of one of its torch classes is this optimizer's."""
        return True

    @classmethod
    def options_of(
        cls, opt: torch.optim.Optimizer, group: Mapping[str, Any]
    ) -> Mapping[str, Option]:
        """`options` of one param group."""
        return cls.options

    @classmethod
    def unscalable(cls, opt: torch.optim.Optimizer) -> str:
        """Why no scaled run can start from a live optimizer's state; empty where one can."""
        return ""

    def at_ballistic_rate(self, learning_rate: float) -> Optimizer:
        """Another learning rate with (1 - beta)/eta of each beta held fixed, for `BallisticRates`.

        Raises:
            UnsupportedError: the optimizer has no betas.
        """
        raise UnsupportedError(
            f"BallisticRates moves the betas of RMSprop and Adam with the rate; {self.name} has "
            "none. Use LearningRates."
        )

    def own_step(self, step: float) -> int:
        """The own step at a level-1 step; refused where that is not a whole number."""
        own = step * self.refinement
        nearest = round(own)
        if abs(own - nearest) > 1e-9 * max(1.0, abs(own)):
            raise InvalidInputError(
                f"step {step:g} is {own:.6g} steps of {self.name} refined {self.refinement:.6g} "
                "times, not a whole number. Compare at steps where it is, or use other levels."
            )
        return nearest

    def ratio(self, step: float) -> PerParameter:
        """The learning rate in units of `learning_rate` at a level-1 step."""
        return 1.0 if self.learning_rate_ratio is None else self.learning_rate_ratio(step)

    def rate(self, k: int) -> PerParameter:
        """The learning rate of own step k."""
        if self.learning_rate_ratio is None:
            return self.learning_rate
        return self.learning_rate * self.learning_rate_ratio(k / self.refinement)


def regularised(gradient: Tensor, theta: Tensor, weight_decay: PerParameter) -> Tensor:
    """The gradient of f + weight_decay |theta|^2 / 2: coupled weight decay."""
    return gradient + weight_decay * theta if is_set(weight_decay) else gradient


def in_range(
    optimizer: Optimizer,
    name: str,
    value: PerParameter,
    low: float,
    high: float,
    closed: bool = False,
) -> None:
    """Refuses a hyperparameter outside [low, high), or [low, high] where `closed`."""
    ends = (value.min(), value.max()) if isinstance(value, Tensor) else (value, value)
    lowest, highest = (number(end, f"{optimizer.name}: {name}") for end in ends)
    if not (lowest >= low and (highest < high or (highest == high and closed))):
        end = "]" if closed else ")"
        raise InvalidInputError(
            f"{optimizer.name}: {name} must lie in [{low:g}, {high:g}{end}; got {value}."
        )


def only(components: Mapping[str, Tensor], names: tuple[str, ...], who: str) -> dict[str, Tensor]:
    """The named components, or a refusal that says which is missing."""
    missing = [n for n in names if n not in components]
    if missing:
        raise InvalidInputError(
            f"{who} needs the state components {names}; missing: {', '.join(missing)}. Start from "
            "warm_up(...), start_from_torch(...) or State(step, ...) with all of them."
        )
    return {n: components[n] for n in names}
