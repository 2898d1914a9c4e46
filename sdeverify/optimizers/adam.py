"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sdeverify.base.shapes import Parameters, PerParameter, Tensor, is_set
from sdeverify.base.state import Components, State
from sdeverify.errors import UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adaptive import (
    Adaptive,
    bias_correction,
    descend,
    noise_variance,
    running_square,
)
from sdeverify.optimizers.optimizer import Optimizer, Option, in_range, only, regularised
from sdeverify.optimizers.rules import Change
from sdeverify.sdes.adam import AdamSDE


@dataclass(frozen=True, kw_only=True)
class Adam(Adaptive):
    """m+ = b1 m + (1 - b1) g, v+ = b2 v + (1 - b2) g^2, both bias-corrected (torch's Adam, AdamW).

        theta+ = (1 - eta lambda) theta - eta m_hat/(sqrt(v_hat) + epsilon)

    SDE coordinates (theta, m, u = v/sigma^2). Clock t = k eta^2, from a start at t > 0.

    Args:
        beta1: in [0, 1).
        beta2: in [0, 1).
        decoupled_weight_decay: lambda of AdamW.

    Example:
        >>> adam = sv.Adam(learning_rate=0.01, beta1=0.9, decoupled_weight_decay=0.1)
        >>> adam.time_per_step, adam.sde_components
        (0.0001, ('theta', 'm', 'u'))
    """

    beta1: PerParameter = 0.9
    beta2: PerParameter = 0.999
    decoupled_weight_decay: PerParameter = 0.0

    name = "Adam"
    components = ("theta", "m", "v")
    sde_components = ("theta", "m", "u")
    torch_classes = (torch.optim.Adam, torch.optim.AdamW)
    options: ClassVar[Mapping[str, Option]] = {
        "beta1": ("betas", 0),
        "beta2": ("betas", 1),
        "epsilon": "eps",
        "weight_decay": "weight_decay",
    }
    refused: ClassVar[Mapping[str, str]] = {
        **Optimizer.refused,
        "amsgrad": "a running maximum of v has no SDE here; use amsgrad=False",
    }
    buffers: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    betas = ("beta1", "beta2")
    factors: ClassVar[Mapping[str, str]] = {
        **Adaptive.factors,
        "decoupled_weight_decay": "decoupled_weight_decay",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "beta1", self.beta1, 0.0, 1.0)
        in_range(self, "beta2", self.beta2, 0.0, 1.0)
        decay = self.decoupled_weight_decay
        in_range(self, "decoupled_weight_decay", decay, 0.0, float("inf"))

    @property
    def title(self) -> str:
        return "AdamW" if is_set(self.decoupled_weight_decay) else self.name

    @property
    def hyperparameters(self) -> dict[str, PerParameter]:
        decay = {"decoupled_weight_decay": self.decoupled_weight_decay}
        return {**super().hyperparameters, **decay}

    @property
    def decay0(self) -> PerParameter:
        """lambda_0 = lambda/eta, held fixed along the ladder."""
        return self.decoupled_weight_decay / self.learning_rate

    def advance(self, k: int, y: Components, gradient: Parameters) -> dict[str, Tensor]:
        g = regularised(gradient, y["theta"], self.weight_decay)
        m = y["m"].lerp_(g, 1 - self.beta1)
        v = running_square(y["v"], g, self.beta2)
        rate, root = self.rate(k), bias_correction(self.beta2, k) ** 0.5
        scale = rate * root / bias_correction(self.beta1, k)
        decay = rate * self.decoupled_weight_decay
        if is_set(decay):
            y["theta"].mul_(1 - decay)
        divisor = v.sqrt().add_(self.epsilon * root)
        return {"theta": descend(y["theta"], m, divisor, scale), "m": m, "v": v}

    @classmethod
    def moved(cls, name: str, value: Any, change: Change) -> Any:
        """As a rule moves it, but beta1 = 0, which is no memory, stays."""
        if name != "beta1" or not _any_zero(value):
            return super().moved(name, value, change)
        if not isinstance(value, Tensor):
            return value
        return torch.where(value == 0, value, super().moved(name, value, change))

    def sde(self, oracle: GradientOracle, keep_signal: bool = False) -> AdamSDE:
        if _any_zero(self.beta1):
            use = "beta1 > 0"
            if not _any_nonzero(self.decoupled_weight_decay):
                use = (
                    "RMSprop with beta = beta2 and the same epsilon, whose steps are the same once "
                    "beta2^k is negligible, or beta1 > 0"
                )
            raise UnsupportedError(
                "Adam with beta1 = 0 has no memory of gradients: its limit is RMSprop's SDE with "
                f"bias correction, which is not offered. Use {use}, in all param groups."
            )
        return AdamSDE(
            oracle,
            self.time_per_level1_step,
            oracle.scale * self.learning_rate,
            self.epsilon0,
            self.relaxation(self.beta2),
            self.weight_decay,
            self.signal(oracle, keep_signal),
            self.relaxation(self.beta1),
            self.decay0,
            learning_rate_ratio=self.learning_rate_ratio,
        )

    def to_sde(self, k: int, y: Components, oracle: GradientOracle) -> State:
        u = y["v"] / noise_variance(oracle, self.name)
        return State(k / self.refinement, theta=y["theta"], m=y["m"], u=u)

    def from_sde(self, state: State, oracle: GradientOracle) -> dict[str, Tensor]:
        y = only(state.components, self.sde_components, self.name)
        v = y["u"] * noise_variance(oracle, self.name)
        return {"theta": y["theta"], "m": y["m"], "v": v}

    @classmethod
    def options_of(
        cls, opt: torch.optim.Optimizer, group: Mapping[str, Any]
    ) -> Mapping[str, Option]:
        if not group.get("decoupled_weight_decay", type(opt) is torch.optim.AdamW):
            return cls.options
        coupled = {name: o for name, o in cls.options.items() if name != "weight_decay"}
        return {**coupled, "decoupled_weight_decay": "weight_decay"}


def _any_zero(value: PerParameter) -> bool:
    return bool((value == 0).any()) if isinstance(value, Tensor) else value == 0


def _any_nonzero(value: PerParameter) -> bool:
    return bool((value != 0).any()) if isinstance(value, Tensor) else value != 0
