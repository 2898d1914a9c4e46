"""RMSprop, with torch's and with the paper's placement of v."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from sdeverify.base.shapes import Parameters, PerParameter, Tensor
from sdeverify.base.state import Components, State
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adaptive import Adaptive, descend, noise_variance, running_square
from sdeverify.optimizers.optimizer import Optimizer, Option, in_range, only, regularised
from sdeverify.sdes.rmsprop import RMSpropSDE


@dataclass(frozen=True, kw_only=True)
class RMSprop(Adaptive):
    """v+ = beta v + (1 - beta) g^2, theta+ = theta - eta g/(sqrt(v_bar) + epsilon).

    SDE coordinates (theta, u = v/sigma^2). Clock t = k eta^2.

    Args:
        beta: torch's `alpha`, in [0, 1).
        old_v: False for torch's v_bar = v+, True for v_bar = v (Malladi et al. 2022). Both have
            the same SDE.

    Example:
        >>> sv.RMSprop(learning_rate=0.01, beta=0.99).time_per_step  # eta^2
        0.0001
    """

    beta: PerParameter = 0.99
    old_v: bool = False

    name = "RMSprop"
    components = ("theta", "v")
    sde_components = ("theta", "u")
    torch_classes = (torch.optim.RMSprop,)
    options: ClassVar[Mapping[str, Option]] = {
        "beta": "alpha",
        "epsilon": "eps",
        "weight_decay": "weight_decay",
    }
    refused: ClassVar[Mapping[str, str]] = {
        **Optimizer.refused,
        "centered": "no SDE covers a centered second moment; use centered=False",
        "momentum": "no SDE here covers RMSprop with momentum; use momentum=0, or Adam",
    }
    buffers: ClassVar[Mapping[str, str]] = {"v": "square_avg"}
    betas = ("beta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "beta", self.beta, 0.0, 1.0)

    @property
    def hyperparameters(self) -> dict[str, PerParameter]:
        return {**super().hyperparameters, "old_v": self.old_v}

    def advance(self, k: int, y: Components, gradient: Parameters) -> dict[str, Tensor]:
        g = regularised(gradient, y["theta"], self.weight_decay)
        old = y["v"].sqrt() if self.old_v else None
        v = running_square(y["v"], g, self.beta)
        root = (v.sqrt() if old is None else old).add_(self.epsilon)
        return {"theta": descend(y["theta"], g, root, self.rate(k)), "v": v}

    def sde(self, oracle: GradientOracle, keep_signal: bool = False) -> RMSpropSDE:
        return RMSpropSDE(
            oracle,
            self.time_per_level1_step,
            oracle.scale * self.learning_rate,
            self.epsilon0,
            self.relaxation(self.beta),
            self.weight_decay,
            self.signal(oracle, keep_signal),
            learning_rate_ratio=self.learning_rate_ratio,
        )

    def to_sde(self, k: int, y: Components, oracle: GradientOracle) -> State:
        return State(
            k / self.refinement, theta=y["theta"], u=y["v"] / noise_variance(oracle, self.name)
        )

    def from_sde(self, state: State, oracle: GradientOracle) -> dict[str, Tensor]:
        y = only(state.components, self.sde_components, self.name)
        return {"theta": y["theta"], "v": y["u"] * noise_variance(oracle, self.name)}
