"""Stochastic gradient descent, with momentum in two coordinates."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sdeverify.base.shapes import Parameters, PerParameter, Tensor
from sdeverify.base.state import Components, State
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer, Option, in_range, only, regularised
from sdeverify.optimizers.rules import Change, LinearRule, MomentumRule, Unscaled
from sdeverify.sdes.sgd import SGDFirstOrder
from sdeverify.sdes.sgd_momentum import SGDMomentumSDE


@dataclass(frozen=True, kw_only=True)
class _GradientDescent(Optimizer, ABC):
    """What SGD with and without momentum share.

    Args:
        weight_decay: coupled, f -> f + weight_decay |theta|^2 / 2.
    """

    weight_decay: PerParameter = 0.0

    options: ClassVar[Mapping[str, Option]] = {"weight_decay": "weight_decay"}
    refinement_power = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "weight_decay", self.weight_decay, 0.0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class SGD(_GradientDescent):
    """theta+ = theta - eta g (torch.optim.SGD without momentum). Clock t = k eta.

    Example:
        >>> sgd = sv.SGD(learning_rate=0.1)
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> sgd.time_per_step, round(sgd.sde(oracle).temperature, 6)  # eta, eta sigma^2
        (0.1, 0.05)
    """

    name = "SGD"
    components = ("theta",)
    sde_components = ("theta",)
    torch_classes = (torch.optim.SGD,)
    rules = (LinearRule(), Unscaled())

    @classmethod
    def reads(cls, group: Mapping[str, Any]) -> bool:
        return not group["momentum"]

    @property
    def time_per_step(self) -> float:
        return self.learning_rate

    def advance(self, k: int, y: Components, gradient: Parameters) -> dict[str, Tensor]:
        update = regularised(gradient, y["theta"], self.weight_decay)
        return {"theta": descend(y["theta"], update, self.rate(k))}

    def sde(self, oracle: GradientOracle) -> SGDFirstOrder:
        return SGDFirstOrder(
            oracle,
            self.time_per_level1_step,
            self.learning_rate * oracle.scale**2,
            self.weight_decay,
            learning_rate_ratio=self.learning_rate_ratio,
        )


@dataclass(frozen=True, kw_only=True)
class SGDMomentum(_GradientDescent):
    """b+ = mu b + (1 - d) g, theta+ = theta - eta b+ (torch.optim.SGD with momentum).

    SDE coordinates (theta, p), p = -h b/(1 - d), h = sqrt(eta (1 - d)), mu = 1 - gamma h. Clock
    t = k h. As in torch, the very first buffer is b = g, undamped.

    Args:
        momentum: mu in [0, 1).
        dampening: d in [0, 1).
        nesterov: theta+ = theta - eta (g + mu b+) instead; it needs d = 0.

    Example:
        >>> momentum = sv.SGDMomentum(learning_rate=0.01, momentum=0.9)
        >>> round(momentum.time_per_step, 6)  # h
        0.1
    """

    momentum: PerParameter
    dampening: float = 0.0
    nesterov: bool = False

    name = "SGD with momentum"
    components = ("theta", "momentum_buffer")
    sde_components = ("theta", "p")
    torch_classes = (torch.optim.SGD,)
    options: ClassVar[Mapping[str, Option]] = {
        "momentum": "momentum",
        "dampening": "dampening",
        "nesterov": "nesterov",
        "weight_decay": "weight_decay",
    }
    shared = ("dampening", "nesterov")
    buffers: ClassVar[Mapping[str, str]] = {"momentum_buffer": "momentum_buffer"}
    rules = (MomentumRule(), LinearRule(), Unscaled())
    caveats: ClassVar[Mapping[str, str]] = {
        "linear": "with mu fixed only eta/(1 - mu) per batch size is kept, not the SDE: the memory "
        "of the momentum is kappa times as long in training time"
    }
    betas = ("momentum",)
    factors: ClassVar[Mapping[str, str]] = {"momentum_buffer": "buffer"}

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "momentum", self.momentum, 0.0, 1.0)
        in_range(self, "dampening", self.dampening, 0.0, 1.0)
        if self.nesterov and self.dampening:
            raise InvalidInputError(
                f"{self.name}: nesterov needs dampening = 0, as in torch; got {self.dampening}."
            )

    @property
    def time_per_step(self) -> float:
        return math.sqrt(self.learning_rate * (1 - self.dampening))

    @property
    def friction(self) -> PerParameter:
        """gamma = (1 - mu)/h, held fixed along every ladder."""
        return (1 - self.momentum) / self.time_per_step

    def advance(self, k: int, y: Components, gradient: Parameters) -> dict[str, Tensor]:
        g = regularised(gradient, y["theta"], self.weight_decay)
        fresh = 1.0 if k == 0 else 1 - self.dampening
        buffer = y["momentum_buffer"].mul_(self.momentum).add_(fresh * g)
        update = g + self.momentum * buffer if self.nesterov else buffer
        return {"theta": descend(y["theta"], update, self.rate(k)), "momentum_buffer": buffer}

    def sde(self, oracle: GradientOracle) -> SGDMomentumSDE:
        return SGDMomentumSDE(
            oracle,
            self.time_per_level1_step,
            self.time_per_step * oracle.scale**2,
            self.friction,
            self.weight_decay,
            learning_rate_ratio=self.learning_rate_ratio,
        )

    def to_sde(self, k: int, y: Components, oracle: GradientOracle) -> State:
        factor = -self.time_per_step / (1 - self.dampening)
        return State(k / self.refinement, theta=y["theta"], p=factor * y["momentum_buffer"])

    def from_sde(self, state: State, oracle: GradientOracle) -> dict[str, Tensor]:
        y = only(state.components, self.sde_components, self.name)
        if self.dampening and state.step == 0 and self.refinement != 1:
            raise InvalidInputError(
                "a damped run starts from a state with a buffer, since torch does not damp its "
                "very first gradient; got a start at step 0. Use warm_up(...) first."
            )
        factor = -(1 - self.dampening) / self.time_per_step
        return {"theta": y["theta"], "momentum_buffer": factor * y["p"]}

    @classmethod
    def reads(cls, group: Mapping[str, Any]) -> bool:
        return bool(group["momentum"])

    @classmethod
    def sde_factors(cls, change: Change) -> Mapping[str, float]:
        return {"p": math.sqrt(change.learning_rate) * change.buffer}

    @classmethod
    def unscalable(cls, opt: torch.optim.Optimizer) -> str:
        for group in opt.param_groups:
            states = [opt.state.get(p, {}) for p in group["params"]]
            if group["dampening"] and any(s.get("momentum_buffer") is None for s in states):
                return (
                    "a damped run is rescaled from a state with a buffer, as torch does not damp "
                    "its first gradient; this optimizer has none. Take a step first, or "
                    "dampening=0."
                )
        return ""


def descend(theta: Tensor, update: Tensor, rate: PerParameter) -> Tensor:
    """theta - rate update, in theta's memory."""
    if isinstance(rate, Tensor):
        return theta.sub_(rate * update)
    return theta.sub_(update, alpha=rate)
