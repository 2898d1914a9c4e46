"""Learning rates over the steps of a live run: what its param groups and its schedule say."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from sdeverify.base.shapes import Int, PerParameter, Tensor
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.torch_classes import kind_of, values_of
from sdeverify.optimizers.torch_groups import Binding

Schedule = Callable[[float], float]
"""The factor of the learning rate at a level-1 step, which may be a fraction on a refined chain."""

TOLERANCE = 1e-5
"""Relative difference at which two learning rates count as two."""


@dataclass(frozen=True)
class ScheduledRatio:
    """eta_g(step)/eta_ref of each parameter: the param groups' learning rates and their schedules.

    Args:
        ratios: each group's initial learning rate in units of the largest.
        schedules: each group's factor over level-1 steps; None means constant.
        group: the group of each parameter, or None where all groups have one ratio.
        dtype: of the vectors.
    """

    ratios: tuple[float, ...]
    schedules: tuple[Schedule, ...] | None
    group: Int[Tensor, " param"] | None
    dtype: torch.dtype = torch.float64

    def __call__(self, step: float) -> PerParameter:
        values = self.of_groups(step)
        if self.group is None:
            return values[0]
        return torch.tensor(values, dtype=self.dtype, device=self.group.device)[self.group]

    def of_groups(self, step: float) -> tuple[float, ...]:
        """The ratio of each group."""
        if self.schedules is None:
            return self.ratios
        factors = {id(s): _factor(s, step) for s in self.schedules}
        pairs = zip(self.ratios, self.schedules, strict=True)
        return tuple(r * factors[id(s)] for r, s in pairs)


def learning_rates(
    opt: torch.optim.Optimizer, binding: Binding, schedule: Schedule | LRScheduler | None
) -> tuple[float, ScheduledRatio | None]:
    """eta_ref, the largest initial learning rate, and every group's ratio to it over the steps."""
    scheduled = any("initial_lr" in g for g in binding.groups)
    if schedule is None and scheduled:
        raise InvalidInputError(
            f"a learning-rate scheduler is attached to this {type(opt).__name__} (its groups have "
            "an 'initial_lr'). Pass schedule=: the scheduler itself, or a function of the step "
            "that gives the factor on the initial learning rates."
        )
    for group in binding.groups:
        _check_cycles(type(opt).__name__, group)
    bases = [_initial(group) for group in binding.groups]
    largest = max(bases)
    if not largest > 0:
        raise InvalidInputError(
            f"{type(opt).__name__}: some {'initial ' if scheduled else ''}learning rate must be "
            f"> 0, since it is the unit of all others; got {bases}."
        )
    schedules = None if schedule is None else _schedules(opt, binding, schedule)
    ratios = tuple(base / largest for base in bases)
    same = len(set(ratios)) == 1 and (schedules is None or len({id(s) for s in schedules}) == 1)
    if same and schedules is None:
        return largest, None
    if same or binding.problem is None:
        ratio = ScheduledRatio(ratios, schedules, None)
    else:
        ratio = ScheduledRatio(ratios, schedules, binding.group_of(), binding.problem.dtype)
    step = binding.steps_counted
    if step is not None:
        check_live_rates(binding, largest, ratio, step)
    return largest, ratio


def check_live_rates(
    binding: Binding, learning_rate: float, ratio: ScheduledRatio, step: int
) -> None:
    """Refuses a schedule that disagrees with the live learning rates at the present step."""
    if ratio.schedules is None:
        return
    if len(ratio.schedules) != len(binding.groups):
        raise InvalidInputError(
            f"optimizer= has schedules of {len(ratio.schedules)} param groups, the live optimizer "
            f"{len(binding.groups)} groups that are trained. Read it with optimizer_from_torch."
        )
    planned = [learning_rate * r for r in ratio.of_groups(step)]
    for group, rate, schedule in zip(binding.groups, planned, ratio.schedules, strict=True):
        live = float(group["lr"])
        if _differ(live, rate):
            raise InvalidInputError(
                f"a group's learning rate is {live:g}, but the schedule says {rate:g} at step "
                f"{step}: the factor {_factor(schedule, step):g} on {_initial(group):g}. "
                + _disagreement(group, schedule, step)
            )


def _check_cycles(name: str, group: Mapping[str, Any]) -> None:
    """Refuses a momentum, or a beta1, that a scheduler moves together with the learning rate."""
    low, high = group.get("base_momentum"), group.get("max_momentum")
    if low != high:
        raise UnsupportedError(
            f"a scheduler moves the momentum (beta1) of this {name} between {low:g} and {high:g}; "
            "the SDEs have a constant one. Train with cycle_momentum=False."
        )


def epoch_of(scheduler: LRScheduler) -> int:
    """How often a scheduler was stepped."""
    parts = getattr(scheduler, "_schedulers", [])
    own = getattr(scheduler, "last_epoch", None)
    return epoch_of(parts[0]) if own is None else int(own)


def _initial(group: Mapping[str, Any]) -> float:
    return float(group.get("initial_lr", group["lr"]))


def _differ(a: float, b: float) -> bool:
    return not abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def _disagreement(group: Mapping[str, Any], schedule: Schedule, step: int) -> str:
    """What is probably wrong, and what to do."""
    live = float(group["lr"])
    if not _differ(_factor(schedule, step), live):
        return (
            "It gives learning rates; factors on the initial learning rates are wanted: divide "
            "them by these."
        )
    if "initial_lr" not in group:
        return (
            "The group has no 'initial_lr', so the factors refer to its present rate. Set "
            "group['initial_lr'] to the learning rate whose factor is 1, in every param group."
        )
    if _says(schedule, 0, live / _initial(group) if _initial(group) else math.nan):
        return "It seems to count steps from now; they are counted from the beginning of training."
    return (
        "Steps are counted from the beginning of training, and factors refer to 'initial_lr'. "
        "Correct the function or step=; where the learning rate of the next step is not set yet, "
        "set it first (scheduler.step())."
    )


def _says(schedule: Schedule, step: int, factor: float) -> bool:
    """Whether a schedule gives this factor at a step, which may be one that it does not know."""
    try:
        return not _differ(_factor(schedule, step), factor)
    except InvalidInputError:
        return False


def _schedules(
    opt: torch.optim.Optimizer, binding: Binding, schedule: Schedule | LRScheduler
) -> tuple[Schedule, ...]:
    if not isinstance(schedule, LRScheduler):
        if not callable(schedule):
            raise InvalidInputError(
                f"schedule= is a scheduler of torch or a function of the step; got a "
                f"{type(schedule).__name__}."
            )
        return (schedule,) * len(binding.groups)
    name = type(schedule).__name__
    if isinstance(schedule, ReduceLROnPlateau):
        raise UnsupportedError(
            f"{name} decides from the losses to come, so its learning rates are no function of the "
            "step. Where none of the next steps reduces the rate, leave schedule= out."
        )
    if schedule.optimizer is not opt:
        raise InvalidInputError(f"schedule= is the {name} of another optimizer; pass its own.")
    _check_epoch(schedule, binding.steps_counted)
    of_group: Mapping[int, Schedule]
    if type(schedule) is LambdaLR:
        lambdas = cast(list[Schedule], schedule.lr_lambdas)
        of_group = {id(g): f for g, f in zip(opt.param_groups, lambdas, strict=True)}
        said = [base * f(schedule.last_epoch) for base, f in _pairs(schedule, lambdas)]
    else:
        table = RateTable(schedule, opt)
        of_group = {id(g): partial(table.factor, i) for i, g in enumerate(opt.param_groups)}
        said = [float(rate) for rate in schedule.get_last_lr()]
    for group, rate in zip(opt.param_groups, said, strict=True):
        if _differ(float(group["lr"]), rate):
            raise InvalidInputError(
                f"a group's learning rate is {float(group['lr']):g}, but its {name} says {rate:g} "
                f"after {epoch_of(schedule)} steps: something else changes it. Pass the whole "
                "schedule as schedule=function."
            )
    return tuple(of_group[id(g)] for g in binding.groups)


def _pairs(schedule: LambdaLR, lambdas: Sequence[Schedule]) -> list[tuple[float, Schedule]]:
    return list(zip(map(float, schedule.base_lrs), lambdas, strict=True))


def _check_epoch(scheduler: LRScheduler, counted: int | None) -> None:
    """Refuses a scheduler that is not stepped once in every optimizer step."""
    epoch, name = epoch_of(scheduler), type(scheduler).__name__
    if counted is None or counted == epoch:
        return
    head = f"the {name} was stepped {epoch} times in {counted} optimizer steps. "
    if epoch > counted:
        raise InvalidInputError(
            f"{head}Where a GradScaler skipped optimizer steps, pass "
            f"schedule=lambda step: factor(step + {epoch - counted})."
        )
    raise InvalidInputError(
        f"{head}Where it is stepped once an epoch, pass "
        "schedule=lambda step: factor(step // steps_per_epoch); where the last optimizer step is "
        "not followed by scheduler.step() yet, call that first."
    )


class RateTable:
    """The learning rates that a scheduler will set, held from one step to the next.

    They are read off a private copy of the scheduler and of its param groups, which is stepped as
    far as is asked for.

    Raises:
        UnsupportedError: the scheduler cannot be copied, or moves more than the learning rate.
    """

    def __init__(self, scheduler: LRScheduler, opt: torch.optim.Optimizer) -> None:
        self._name, self._kind = type(scheduler).__name__, kind_of(opt)
        self._opt = copy.copy(opt)
        self._opt.param_groups = [
            {k: v if k == "params" else copy.deepcopy(v) for k, v in group.items()}
            for group in opt.param_groups
        ]
        try:
            self._scheduler = copy.deepcopy(scheduler, {id(opt): self._opt})
        except Exception as error:
            raise UnsupportedError(
                f"this {self._name} cannot be copied to read its learning rates ({error}). Pass "
                "schedule=function, which gives the factor on the initial learning rates at a step."
            ) from error
        self._first = epoch_of(scheduler)
        self._others = self._other_options()
        self._rates = [self._present()]

    def factor(self, group: int, step: float) -> float:
        """The factor on a group's initial learning rate at a level-1 step."""
        row = math.floor(step + 1e-9) - self._first
        if row < 0:
            raise InvalidInputError(
                f"the {self._name} is at step {self._first}; what it set at step {step:g} is not "
                "known. Start from the present state, or pass schedule=function."
            )
        while len(self._rates) <= row:
            self._advance()
        rate, initial = self._rates[row][group], _initial(self._opt.param_groups[group])
        if initial == 0 and rate != 0:
            raise UnsupportedError(
                f"the {self._name} raises a learning rate from an initial_lr of 0 to {rate:g}, "
                "which is no multiple of it. Start it from a small learning rate > 0."
            )
        return rate / initial if initial else 1.0

    def _advance(self) -> None:
        step = self._first + len(self._rates)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._scheduler.step()
        except Exception as error:
            raise InvalidInputError(
                f"the {self._name} has no learning rate for step {step}: {error}. Compare fewer "
                "steps."
            ) from error
        if self._other_options() != self._others:
            raise UnsupportedError(
                f"the {self._name} moves other options than the learning rate at step {step}; the "
                "SDEs have constant ones. Let it move the learning rate alone."
            )
        self._rates.append(self._present())

    def _present(self) -> list[float]:
        return [float(group["lr"]) for group in self._opt.param_groups]

    def _other_options(self) -> list[dict[str, Any]]:
        groups = (g for g in self._opt.param_groups if self._kind.reads(g))
        return [values_of(self._kind, self._opt, group) for group in groups]


def _factor(schedule: Schedule, step: float) -> float:
    """The schedule at a step, as an int where it is whole, since torch's lambdas get ints."""
    nearest = round(step)
    whole = abs(step - nearest) <= 1e-9 * max(1.0, abs(step))
    try:
        return float(schedule(nearest if whole else step))
    except (TypeError, IndexError, KeyError) as error:
        raise InvalidInputError(
            f"the schedule cannot be evaluated at step {step:g}: {error}. It is a function of a "
            "real step from 0 to the end of the comparison; interpolate a table."
        ) from error
