"""From a live torch.optim optimizer to ours."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from sdeverify.errors import UnsupportedError
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.schedules import Schedule, learning_rates
from sdeverify.optimizers.skipped import check_skipped
from sdeverify.optimizers.torch_classes import kind_of, values_of
from sdeverify.optimizers.torch_groups import Binding, bind
from sdeverify.problems.problem import Problem


def optimizer_from_torch(
    opt: torch.optim.Optimizer,
    problem: Problem | None = None,
    schedule: Schedule | LRScheduler | None = None,
) -> Optimizer:
    """Our optimizer with the hyperparameters of a live torch optimizer.

    That is torch.optim's SGD, RMSprop, Adam or AdamW, or what an `Optimizer` of your own names.

    Param groups are bound to the problem's parameters by identity. The clock is that of the
    largest initial learning rate eta_ref; each group's learning rate in units of it, schedule
    included, multiplies its theta-equation, and no other constant moves. Other hyperparameters
    are one number where all groups agree, else a vector over theta. The torch optimizer is only
    read. Switches of its implementation (foreach, fused, capturable, differentiable) do not matter.

    Args:
        opt: the torch optimizer.
        problem: of `problem_from_module`, with the same parameters; needed for several groups.
        schedule: the scheduler of torch that steps `opt`, once a step, or a function of the level-1
            step that gives the factor on all groups' initial learning rates ("initial_lr"), counted
            from the beginning of training. A ladder refines the chain, so a function (a LambdaLR's
            too) is called with fractions of a step; other schedulers are read off a private copy,
            and their rates hold from one step to the next.

    Raises:
        UnsupportedError: an optimizer, option, hook or scheduler that no SDE here covers, or
            parameters that torch skips for want of a gradient.
        InvalidInputError: parameters that do not fit the problem, bad values, or a schedule that
            disagrees with the live learning rates.

    Example:
        >>> net = torch.nn.Linear(3, 2)
        >>> adam = sv.optimizer_from_torch(torch.optim.Adam(net.parameters(), lr=0.01))
        >>> adam.learning_rate, adam.beta1, adam.time_per_step
        (0.01, 0.9, 0.0001)
    """
    binding = bind(opt, problem)
    learning_rate, ratio = learning_rates(opt, binding, schedule)
    kind = kind_of(opt)
    ours = kind(
        learning_rate=learning_rate,
        learning_rate_ratio=ratio,
        **_hyperparameters(kind, opt, binding),
    )
    check_skipped(type(opt).__name__, binding, ours)
    return ours


def _hyperparameters(
    kind: type[Optimizer], opt: torch.optim.Optimizer, binding: Binding
) -> dict[str, Any]:
    """One value each, or a vector over theta where the groups differ; what no group has is 0."""
    groups = [values_of(kind, opt, group) for group in binding.groups]
    names = dict.fromkeys(name for group in groups for name in group)
    for name in kind.shared:
        if len({group[name] for group in groups}) > 1:
            raise UnsupportedError(
                f"{type(opt).__name__} with different {name} in its param groups "
                f"({[group[name] for group in groups]}): the clock and the step are common to all "
                "groups. Use one value."
            )
    spread = {
        name: binding.spread([float(group.get(name, 0.0)) for group in groups])
        for name in names
        if name not in kind.shared
    }
    return {**spread, **{name: groups[0][name] for name in kind.shared}}
