"""Scaling rules: by which factors hyperparameters and state move when the batch grows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from sdeverify.base.shapes import PerParameter, Tensor


@dataclass(frozen=True)
class Change:
    """Factors of an optimizer's hyperparameters and state; 1 where nothing moves.

    Args:
        learning_rate: of eta.
        relaxation: of 1 - beta for each beta, and of 1 - mu.
        epsilon: of epsilon.
        decoupled_weight_decay: of AdamW's lambda; coupled weight decay never moves.
        buffer: of torch's momentum buffer b.
        second_moment: of v.
        steps: of the number of steps, and of Adam's step counter.

    Example:
        >>> change = sv.Change(learning_rate=4.0, steps=1 / 4)  # SGD's linear rule at kappa = 4
        >>> change.learning_rate, change.relaxation
        (4.0, 1.0)
    """

    learning_rate: float = 1.0
    relaxation: float = 1.0
    epsilon: float = 1.0
    decoupled_weight_decay: float = 1.0
    buffer: float = 1.0
    second_moment: float = 1.0
    steps: float = 1.0

    def relaxed(self, beta: PerParameter) -> PerParameter:
        """beta with 1 - beta times `relaxation`; rounding below 0 is removed."""
        if self.relaxation == 1:
            return beta
        moved = 1 - self.relaxation * (1 - beta)
        if isinstance(moved, Tensor):
            return torch.where(moved.abs() < 1e-9, torch.zeros_like(moved), moved)
        return 0.0 if abs(moved) < 1e-9 else moved


class BatchRule(ABC):
    """How hyperparameters and state move from batch B to kappa B; k steps become k/kappa.

    An optimizer's class names the rules that go with it, the one that keeps its SDE first.

    Example:
        >>> class HalfPower(sv.BatchRule):
        ...     name = "half power"
        ...     def change(self, kappa):
        ...         return sv.Change(learning_rate=kappa**0.5, steps=1 / kappa)
        >>> sv.scale(sv.SGD(learning_rate=0.1), 4, HalfPower()).learning_rate
        0.2
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called, in `scale(..., rule=name)` too."""

    @abstractmethod
    def change(self, kappa: float) -> Change:
        """The factors of hyperparameters and state, powers of kappa."""

    def kappa(self, learning_rate: float) -> float:
        """The batch factor at which the learning rate moves by this factor."""
        return float(learning_rate ** (1 / math.log2(self.change(2.0).learning_rate)))


@dataclass(frozen=True)
class LinearRule(BatchRule):
    """eta -> kappa eta, all else as it was (Goyal et al. 2017). It keeps the SDE of SGD.

    With momentum it is the customary rule: mu fixed, the buffer as it was. It keeps only the
    effective learning rate eta/(1 - mu) to batch size, not the friction of the SDE, so the memory
    of 1/(1 - mu) steps is kappa times as long on the training's clock. For RMSprop and Adam it is
    a rival of the square-root rule.
    """

    name = "linear"

    def change(self, kappa: float) -> Change:
        return Change(learning_rate=kappa, second_moment=1 / kappa, steps=1 / kappa)


@dataclass(frozen=True)
class MomentumRule(BatchRule):
    """eta -> kappa^2 eta, 1 - mu -> kappa (1 - mu), b -> b/kappa: it keeps the SDE of momentum.

    h = sqrt(eta (1 - d)) goes to kappa h, so that friction (1 - mu)/h, temperature h sigma^2 and
    p = -h b/(1 - d) stay, and k/kappa steps take the same SDE time.
    """

    name = "momentum"

    def change(self, kappa: float) -> Change:
        return Change(learning_rate=kappa**2, relaxation=kappa, buffer=1 / kappa, steps=1 / kappa)


@dataclass(frozen=True)
class SquareRootRule(BatchRule):
    """eta -> sqrt(kappa) eta, 1 - beta -> kappa (1 - beta), epsilon -> epsilon/sqrt(kappa).

    Decoupled lambda -> sqrt(kappa) lambda, v -> v/kappa, m and coupled weight decay as they were.
    It keeps the SDEs of RMSprop, Adam and AdamW (Malladi et al. 2022, definitions 5.1 and 5.2).

    Args:
        move_beta: False leaves each beta fixed, a rival.
        move_epsilon: False leaves epsilon fixed, a rival.
    """

    move_beta: bool = True
    move_epsilon: bool = True

    @property
    def name(self) -> str:
        left = [
            what
            for what, moved in (("beta", self.move_beta), ("epsilon", self.move_epsilon))
            if not moved
        ]
        return "_".join(["square_root", *(f"fixed_{what}" for what in left)])

    def change(self, kappa: float) -> Change:
        root = math.sqrt(kappa)
        return Change(
            learning_rate=root,
            relaxation=kappa if self.move_beta else 1.0,
            epsilon=1 / root if self.move_epsilon else 1.0,
            decoupled_weight_decay=root,
            second_moment=1 / kappa,
            steps=1 / kappa,
        )


@dataclass(frozen=True)
class Unscaled(BatchRule):
    """Every hyperparameter as it was: what happens when only the batch grows."""

    name = "unscaled"

    def change(self, kappa: float) -> Change:
        return Change(second_moment=1 / kappa, steps=1 / kappa)
