"""Where chains and paths start: from live training runs, and with u > 0 wherever there is noise."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LRScheduler

from sdeverify.base.arguments import whole
from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adaptive import floor_u
from sdeverify.optimizers.from_torch import optimizer_from_torch
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.schedules import (
    Schedule,
    ScheduledRatio,
    check_live_rates,
    epoch_of,
)
from sdeverify.optimizers.torch_classes import kind_of
from sdeverify.optimizers.torch_groups import Binding, bind
from sdeverify.problems.problem import Problem


def start_from_torch(
    opt: torch.optim.Optimizer,
    problem: Problem,
    oracle: GradientOracle,
    optimizer: Optimizer | None = None,
    schedule: Schedule | LRScheduler | None = None,
    step: int | None = None,
) -> State:
    """The present state of a live training run: parameters, buffers and step counter.

    Coordinates with v = 0 though their gradient is noisy start from u = diag Sigma(theta); their
    number is logged (see `floor_u`).

    Args:
        opt: the torch optimizer; it and its parameters are only read.
        problem: of `problem_from_module`, with the same parameters.
        oracle: gives sigma, the unit of u.
        optimizer: what `optimizer_from_torch` made of `opt`; made here where left out.
        schedule: as in `optimizer_from_torch`, where `optimizer` is left out.
        step: optimizer steps so far. RMSprop and Adam count them, a scheduler too. torch's SGD does
            not: without a schedule only "none yet" matters there, and the default is 0 before the
            first step and 1 where there are momentum buffers.

    Raises:
        InvalidInputError: no step was made yet (adaptive methods), unequal step counters, a
            counter that is not `step`, a schedule whose step is unknown, or one that disagrees
            with the live learning rates.

    Example:
        >>> net, loss = torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(reduction="none")
        >>> inputs, targets = torch.randn(8, 3), torch.tensor([0, 1] * 4)
        >>> torch_adam = torch.optim.Adam(net.parameters(), lr=0.01)
        >>> loss(net(inputs), targets).mean().backward()
        >>> torch_adam.step()
        >>> problem = sv.problem_from_module(net, inputs, targets, loss)
        >>> oracle = sv.GradientOracle(problem, sv.MinibatchNoise(4))
        >>> start = sv.start_from_torch(torch_adam, problem, oracle)
        >>> start.step, list(start.components)
        (1.0, ['theta', 'm', 'u'])
    """
    if optimizer is None:
        optimizer = optimizer_from_torch(opt, problem, schedule)
    elif optimizer.refinement != 1:
        raise InvalidInputError(
            "start_from_torch needs the optimizer of the live run; got one refined "
            f"{optimizer.refinement:g} times. Start first, then go to a level."
        )
    kind = kind_of(opt)
    if not isinstance(optimizer, kind):
        raise InvalidInputError(
            f"this {type(opt).__name__} is a {kind.__name__} here; got optimizer= of the class "
            f"{type(optimizer).__name__}. Pass that of optimizer_from_torch, or build a State."
        )
    buffers = kind.buffers
    binding = bind(opt, problem)
    y = {"theta": binding.gather(lambda parameter: parameter)}
    started = _check_buffers(opt, binding, optimizer, tuple(buffers.values()))
    for ours, theirs in buffers.items():
        y[ours] = torch.zeros_like(y["theta"])
        if started:
            y[ours] = binding.gather(lambda p, name=theirs: opt.state[p][name])  # type: ignore[misc]
    k = _step_of(binding, optimizer, schedule, step, bool(buffers) and started)
    if isinstance(optimizer.learning_rate_ratio, ScheduledRatio):
        check_live_rates(binding, optimizer.learning_rate, optimizer.learning_rate_ratio, k)
    return floor_u(optimizer.to_sde(k, y, oracle), oracle)[0]


def _check_buffers(
    opt: torch.optim.Optimizer, binding: Binding, optimizer: Optimizer, names: tuple[str, ...]
) -> bool:
    """Whether the run has made a step; refused where only some parameters have buffers."""
    parameters = binding.all_parameters
    states = [opt.state.get(p, {}) for p in parameters]
    without = [s for s in states if any(s.get(name) is None for name in names)]
    if not without:
        return True
    if optimizer.needs_buffers:
        raise InvalidInputError(
            f"{len(without)} of {len(states)} parameter tensors have no {' or '.join(names)} yet, "
            f"and the SDE of {optimizer.name} starts from u > 0. Make some training steps first "
            "(all parameters need gradients), or use warm_up(...)."
        )
    if len(without) < len(states):
        raise InvalidInputError(
            f"{len(without)} of {len(states)} parameter tensors have no momentum buffer though "
            "others do: they got no gradient so far. Freeze them with requires_grad_(False), or "
            "make a step with gradients for all."
        )
    return False


def _step_of(
    binding: Binding,
    optimizer: Optimizer,
    schedule: Schedule | LRScheduler | None,
    step: int | None,
    buffered: bool,
) -> int:
    """The number of optimizer steps so far."""
    counted = binding.step_counts
    if any(not count.is_integer() for count in counted):
        raise InvalidInputError(
            f"the optimizer's step counter is {counted}, not a whole number: it was scaled at a "
            "step that is no multiple of kappa. Scale at a multiple, or start from the unscaled "
            "optimizer and use scale, scale_state and scale_batch."
        )
    counts = [int(count) for count in counted]
    if len(counts) > 1:
        raise InvalidInputError(
            f"the parameters' step counters differ: {counts}. Some got no gradient in some steps; "
            "the SDE has one clock. Freeze them or give all of them gradients."
        )
    if counts and step is not None and step != counts[0]:
        raise InvalidInputError(f"the optimizer counted {counts[0]} steps; got step={step}.")
    if counts:
        return counts[0]
    if isinstance(schedule, LRScheduler):
        epoch = epoch_of(schedule)
        if step is not None and step != epoch:
            raise InvalidInputError(
                f"the {type(schedule).__name__} was stepped {epoch} times; got step={step}. Leave "
                "step= out, or pass schedule=function."
            )
        return max(epoch, int(buffered))
    if step is not None:
        step = whole(step, "step")
        if buffered and step < 1:
            raise InvalidInputError(f"momentum buffers come from step 1 on; got step={step}.")
        return step
    ratio = optimizer.learning_rate_ratio
    if ratio is not None and not (isinstance(ratio, ScheduledRatio) and ratio.schedules is None):
        raise InvalidInputError(
            "torch's SGD counts no steps, and the schedule needs them. Pass step=, the number of "
            "optimizer steps so far (a scheduler's last_epoch)."
        )
    return 1 if buffered else 0
