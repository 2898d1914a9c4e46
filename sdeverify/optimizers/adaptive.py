"""What RMSprop and Adam share: the second moment v and its coordinate u = v/sigma^2."""

from __future__ import annotations

import logging
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sdeverify.base.shapes import PerParameter, Tensor
from sdeverify.base.state import State
from sdeverify.errors import UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.noise.statistics import representative
from sdeverify.optimizers.optimizer import Optimizer, in_range
from sdeverify.optimizers.rules import LinearRule, SquareRootRule, Unscaled


@dataclass(frozen=True, kw_only=True)
class Adaptive(Optimizer, ABC):
    """An optimizer that divides by the root of a running mean of squared gradients.

    Args:
        epsilon: added to the root.
        weight_decay: coupled, f -> f + weight_decay |theta|^2 / 2.
    """

    epsilon: PerParameter = 1e-8
    weight_decay: PerParameter = 0.0

    refinement_power = 2
    needs_buffers = True
    rules = (
        SquareRootRule(),
        LinearRule(),
        SquareRootRule(move_beta=False),
        SquareRootRule(move_epsilon=False),
        Unscaled(),
    )
    factors: ClassVar[Mapping[str, str]] = {"epsilon": "epsilon", "v": "second_moment"}

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "epsilon", self.epsilon, 0.0, float("inf"))
        in_range(self, "weight_decay", self.weight_decay, 0.0, float("inf"))

    @property
    def time_per_step(self) -> float:
        return self.learning_rate**2

    @property
    def epsilon0(self) -> PerParameter:
        """epsilon_0 = epsilon eta, held fixed along the ladder."""
        return self.epsilon * self.learning_rate

    def relaxation(self, beta: PerParameter) -> PerParameter:
        """c = (1 - beta)/eta^2, held fixed along the ladder."""
        return (1 - beta) / self.learning_rate**2

    def signal(self, oracle: GradientOracle, keep: bool) -> float:
        """The weight 1/sigma^2 of (grad f)^2 in du, 0 where it is dropped."""
        variance = noise_variance(oracle, self.name)
        return 1 / variance if keep else 0.0

    def at_ballistic_rate(self, learning_rate: float) -> Adaptive:
        """Another learning rate with (1 - beta)/eta of each beta held fixed, and epsilon too.

        Compagnoni et al. 2025 (arXiv 2411.15958); the noise keeps its scale.
        """
        shrink = learning_rate / self.learning_rate
        slower = {name: 1 - (1 - getattr(self, name)) * shrink for name in self.betas}
        finer = self.refinement / shrink
        return replace(self, learning_rate=learning_rate, refinement=finer, **slower)


def noise_variance(oracle: GradientOracle, who: str) -> float:
    """sigma^2, refused where it is 0: the adaptive SDEs are equations of noise."""
    if oracle.scale == 0:
        raise UnsupportedError(
            f"the SDEs of {who} measure v in units of the noise, u = v/sigma^2; this oracle has "
            f"sigma = 0 ({oracle.noise.describe(oracle.problem)}). "
            "Use batches smaller than the data."
        )
    return oracle.scale**2


def bias_correction(beta: PerParameter, k: int) -> PerParameter:
    """1 - beta^(k + 1) after own step k."""
    if isinstance(beta, Tensor):
        return 1 - torch.pow(beta, k + 1)
    return 1 - beta ** (k + 1)


def running_square(v: Tensor, g: Tensor, beta: PerParameter) -> Tensor:
    """beta v + (1 - beta) g^2, in v's memory."""
    v.mul_(beta)
    if isinstance(beta, Tensor):
        return v.add_((1 - beta) * g.square())
    return v.addcmul_(g, g, value=1 - beta)


def descend(theta: Tensor, update: Tensor, root: Tensor, rate: PerParameter) -> Tensor:
    """theta - rate update/root, in theta's memory."""
    if isinstance(rate, Tensor):
        return theta.sub_(rate * update / root)
    return theta.addcdiv_(update, root, value=-rate)


logger = logging.getLogger(__name__)


def floor_u(state: State, oracle: GradientOracle) -> tuple[State, int]:
    """The state with u = diag Sigma(theta) wherever u = 0 though diag Sigma > 0, and their number.

    The adaptive SDEs need u > 0 where there is noise, and a coordinate that has not seen any yet
    (v = 0) would start them from a division by epsilon. Coordinates without noise keep u = 0. A
    state without u is returned as it came. The number is logged where it is not 0.

    Args:
        state: a point `(param,)` or an ensemble `(replica, param)`, whose replicas' coordinates
            are counted apart.
        oracle: gives diag Sigma; of large data a subset does.
    """
    if "u" not in state.components:
        return state, 0
    u = state.u
    empty = u == 0
    if not bool(empty.any()):
        return state, 0
    point = state.theta.reshape(1, -1) if state.theta.ndim == 1 else state.theta
    if oracle.noise.covariance.of_uniform_samples:
        oracle = replace(oracle, problem=representative(oracle.problem))
    variance = oracle.variance(point).reshape(u.shape)
    empty = empty & (variance > 0)
    count = int(empty.sum())
    if count == 0:
        return state, 0
    logger.warning(
        "%d of %d coordinates have v = 0 though their gradient is noisy; they start from "
        "u = diag Sigma(theta)",
        count,
        u.numel(),
    )
    return State(state.step, **{**state.components, "u": torch.where(empty, variance, u)}), count
