"""SVAG in a training loop of one's own, around a live torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sdeverify.base.arguments import number
from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError
from sdeverify.noise.amplified import amplification_weights
from sdeverify.optimizers.rules import Change
from sdeverify.optimizers.torch_classes import kind_of
from sdeverify.scaling.rules import rule_for
from sdeverify.scaling.torch_optimizer import changed, without_schedule

LossOfBatch = Callable[[], Tensor]


class TorchSVAG:
    """SVAG at a level for a torch optimizer: two mini-batches a step, no ensemble.

    Each own step takes the gradient r_1 g^(1) + r_2 g^(2) of two independent mini-batches, with
    r_(1,2) = (1 +- sqrt(2 a^2 - 1))/2, and the optimizer's hyperparameters and state at that level:
    SGD eta/l, a^2 = l; momentum eta/l^2, 1 - mu over l, buffer l b, a^2 = l; RMSprop, Adam, AdamW
    eta/l, 1 - beta over l^2, l epsilon, lambda/l, l^2 v, a = l. One step of the optimizer is l own
    steps (SGD, momentum) or l^2 (adaptive). (Li, Malladi, Arora 2021, section 4; Malladi et al.
    2022, definition 6.1.) At level 1 a step takes one batch and is the optimizer's, bit for bit.

        svag = TorchSVAG(torch.optim.Adam(net.parameters()), level=2)
        for _ in range(svag.own_steps(100)):
            batches = [next(loader) for _ in range(svag.batches_per_step)]
            svag.step(*[lambda b=b: loss(net(b.x), b.y) for b in batches])

    The optimizer that is passed is left as it was; `optimizer` is a refined copy over the same
    parameters, with its state moved, so a run can be taken over in mid-training. Anything that is
    not linear in the gradient, such as clipping, is not covered by SVAG's theory.

    Args:
        optimizer: torch.optim's SGD, RMSprop, Adam or AdamW.
        level: l >= 1, real.
        schedule_stretched: confirms that a scheduler of `optimizer` is replaced by a
            `LambdaLR(svag.optimizer, svag.stretched(ratio))`; without it such an optimizer is
            refused.

    Raises:
        InvalidInputError: level < 1.
        UnsupportedError: an optimizer or option that no SDE covers, or a scheduler is attached.

    Example:
        >>> net = torch.nn.Linear(3, 2)
        >>> svag = sv.TorchSVAG(torch.optim.SGD(net.parameters(), lr=0.1), level=2)
        >>> svag.optimizer.param_groups[0]["lr"], svag.amplification
        (0.05, 1.4142135623730951)
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, level: float, *, schedule_stretched: bool = False
    ) -> None:
        if not 1 <= number(level, "SVAG's level") < math.inf:
            raise InvalidInputError(
                f"SVAG's level is a real number >= 1 (1 is the optimizer itself); got {level}."
            )
        kind = kind_of(optimizer)
        self.level = level
        self.refinement = level**kind.refinement_power
        self.amplification = math.sqrt(self.refinement)
        change = Change()
        if level != 1:
            if not schedule_stretched:
                without_schedule(optimizer)
            # Level l is the scaling rule to a batch of B/l (or B/l^2), whose noise amplification
            # supplies instead of a smaller batch.
            change = rule_for(kind, "auto").change(1 / self.refinement)
        self.optimizer = changed(optimizer, change)

    def __repr__(self) -> str:
        group = self.optimizer.param_groups[0]
        options = kind_of(self.optimizer).options_of(self.optimizer, group).values()
        names = dict.fromkeys(["lr", *(o if isinstance(o, str) else o[0] for o in options)])
        settings = ", ".join(f"{name}={group[name]}" for name in names)
        return (
            f"TorchSVAG(level={self.level:g}): {self.refinement:g} own steps of "
            f"{self.batches_per_step} mini-batches for one of {type(self.optimizer).__name__}'s, "
            f"each with {settings}"
        )

    @property
    def batches_per_step(self) -> int:
        """2, or 1 at level 1."""
        return 1 if self.level == 1 else 2

    @property
    def weights(self) -> tuple[float, ...]:
        """r_1 and r_2, for loops that call backward themselves; (1,) at level 1."""
        return (1.0,) if self.level == 1 else amplification_weights(self.amplification)

    def own_steps(self, steps: float) -> int:
        """The own steps in `steps` steps of the optimizer; refused where not a whole number."""
        own = number(steps, "steps") * self.refinement
        nearest = round(own)
        if abs(own - nearest) > 1e-9 * max(1.0, abs(own)):
            raise InvalidInputError(
                f"{steps:g} steps at level {self.level:g} are {own:.6g} own steps, not a whole "
                f"number. Take a multiple of {1 / self.refinement:.6g} steps, or another level."
            )
        return nearest

    def stretched(self, ratio: Callable[[float], float]) -> Callable[[int], float]:
        """A schedule over the optimizer's steps as one over own steps, for `LambdaLR`."""
        return lambda own_step: ratio(own_step / self.refinement)

    def step(self, *losses: LossOfBatch) -> tuple[Tensor, ...]:
        """One own step from `batches_per_step` independent mini-batches.

        Args:
            losses: functions of nothing that compute a mini-batch's mean loss at the present
                parameters; they call neither `backward` nor `zero_grad`.

        Returns:
            The losses' values, detached.

        Raises:
            InvalidInputError: too many or too few batches.
        """
        if len(losses) != self.batches_per_step:
            raise InvalidInputError(
                f"a step at level {self.level:g} takes {self.batches_per_step} mini-batches; got "
                f"{len(losses)}."
            )
        self.optimizer.zero_grad(set_to_none=True)
        values = []
        for weight, loss in zip(self.weights, losses, strict=True):
            value = loss()
            if not isinstance(value, Tensor) or not value.requires_grad or value.numel() != 1:
                raise InvalidInputError(
                    "each function returns one batch's mean loss, a tensor of one number with a "
                    f"gradient, without calling backward; got {value!r}."
                )
            (value if weight == 1 else weight * value).backward()
            values.append(value.detach())
        self.optimizer.step()
        return tuple(values)
