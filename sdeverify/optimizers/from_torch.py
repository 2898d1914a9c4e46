"""From a live torch.optim optimizer to ours."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from sdeverify.base.shapes import PerParameter
from sdeverify.errors import UnsupportedError
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.optimizers.torch_groups import (
    Binding,
    Schedule,
    bind,
    learning_rates,
)
from sdeverify.problems.problem import Problem


def optimizer_from_torch(
    opt: torch.optim.Optimizer,
    problem: Problem | None = None,
    schedule: Schedule | LRScheduler | None = None,
) -> Optimizer:
    """Our optimizer with the hyperparameters of a live torch.optim.SGD, RMSprop, Adam or AdamW.

    Param groups are bound to the problem's parameters by identity. The clock is that of the
    largest initial learning rate eta_ref; each group's learning rate in units of it, schedule
    included, multiplies its theta-equation, and no other constant moves. Other hyperparameters
    are one number where all groups agree, else a vector over theta. The torch optimizer is only
    read. Switches of its implementation (foreach, fused, capturable, differentiable) do not matter.

    Args:
        opt: the torch optimizer.
        problem: of `problem_from_module`, with the same parameters; needed for several groups.
        schedule: the LambdaLR that steps `opt`, once a step, or a function of the level-1 step
            that gives the factor on all groups' initial learning rates. A ladder refines the
            chain, so it is called with fractions of a step too.

    Raises:
        UnsupportedError: an optimizer, option or scheduler that no SDE here covers.
        InvalidInputError: parameters that do not fit the problem, or bad values.
    """
    binding = bind(opt, problem)
    learning_rate, ratio = learning_rates(opt, binding, schedule)
    common: dict[str, Any] = {"learning_rate": learning_rate, "learning_rate_ratio": ratio}
    if isinstance(opt, torch.optim.SGD):
        return _sgd(binding, common)
    common["epsilon"] = _spread(binding, "eps")
    if isinstance(opt, torch.optim.RMSprop):
        decay = _spread(binding, "weight_decay")
        return RMSprop(beta=_spread(binding, "alpha"), weight_decay=decay, **common)
    is_adamw = isinstance(opt, torch.optim.AdamW)
    decoupled = [bool(g.get("decoupled_weight_decay", is_adamw)) for g in binding.groups]
    decays = [float(g["weight_decay"]) for g in binding.groups]
    pairs = list(zip(decays, decoupled, strict=True))
    return Adam(
        beta1=binding.spread([float(g["betas"][0]) for g in binding.groups]),
        beta2=binding.spread([float(g["betas"][1]) for g in binding.groups]),
        weight_decay=binding.spread([0.0 if apart else decay for decay, apart in pairs]),
        decoupled_weight_decay=binding.spread([decay if apart else 0.0 for decay, apart in pairs]),
        **common,
    )


def _sgd(binding: Binding, common: dict[str, Any]) -> Optimizer:
    common["weight_decay"] = _spread(binding, "weight_decay")
    momenta = [float(g["momentum"]) for g in binding.groups]
    if not any(momenta):
        return SGD(**common)
    if not all(momenta):
        raise UnsupportedError(
            f"SGD with momentum in some param groups only (momentum {momenta}): one clock, "
            "t = k h, cannot serve both. Give all groups momentum, or verify them one by one."
        )
    for option in ("nesterov", "dampening"):
        if len({g[option] for g in binding.groups}) > 1:
            raise UnsupportedError(
                f"SGD with different {option} in its param groups "
                f"({[g[option] for g in binding.groups]}): the clock h = sqrt(eta (1 - d)) and the "
                "step are common to all groups. Use one value."
            )
    first = binding.groups[0]
    return SGDMomentum(
        momentum=binding.spread(momenta),
        dampening=float(first["dampening"]),
        nesterov=bool(first["nesterov"]),
        **common,
    )


def _spread(binding: Binding, option: str) -> PerParameter:
    return binding.spread([float(g[option]) for g in binding.groups])
