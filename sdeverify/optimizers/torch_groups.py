"""The param groups of a live torch optimizer: what they say, and where their parameters lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from sdeverify.base.shapes import Int, PerParameter, Tensor
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.torch_classes import kind_of
from sdeverify.problems.problem import Problem

Schedule = Callable[[float], float]
"""The factor of the learning rate at a level-1 step, which may be a fraction on a refined chain."""


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
        values = self.ratios
        if self.schedules is not None:
            factors = {id(s): _factor(s, step) for s in self.schedules}
            pairs = zip(self.ratios, self.schedules, strict=True)
            values = tuple(r * factors[id(s)] for r, s in pairs)
        if self.group is None:
            return values[0]
        return torch.tensor(values, dtype=self.dtype, device=self.group.device)[self.group]


@dataclass(frozen=True)
class Binding:
    """The parameters of each group and their slices of theta; slices are None without a problem."""

    groups: list[dict[str, Any]]
    parameters: list[list[torch.nn.Parameter]]
    slices: list[list[slice]] | None
    problem: Problem | None

    def spread(self, values: Sequence[float]) -> PerParameter:
        """One value a group as one number where all agree, else as a vector over theta."""
        if len(set(values)) == 1:
            return values[0]
        group = self.group_of()
        assert self.problem is not None
        return torch.tensor(values, dtype=self.problem.dtype, device=group.device)[group]

    def group_of(self) -> Int[Tensor, " param"]:
        """The group of each parameter."""
        assert self.problem is not None
        assert self.slices is not None
        group = torch.zeros(self.problem.dim, dtype=torch.long, device=self.problem.device)
        for index, slices in enumerate(self.slices):
            for where in slices:
                group[where] = index
        return group

    def gather(self, value_of: Callable[[torch.nn.Parameter], Tensor]) -> Tensor:
        """A flat vector over theta from one tensor for each live parameter, copied."""
        assert self.problem is not None
        assert self.slices is not None
        options = {"dtype": self.problem.dtype, "device": self.problem.device}
        flat = torch.zeros(self.problem.dim, **options)  # type: ignore[call-overload]
        for parameters, slices in zip(self.parameters, self.slices, strict=True):
            for parameter, where in zip(parameters, slices, strict=True):
                flat[where] = value_of(parameter).detach().reshape(-1).to(flat)
        return torch.as_tensor(flat)

    @property
    def all_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of all groups."""
        return [p for parameters in self.parameters for p in parameters]


def bind(opt: torch.optim.Optimizer, problem: Problem | None) -> Binding:
    """The groups of a supported optimizer, bound to a problem by parameter identity.

    Raises:
        UnsupportedError: an optimizer or option that no SDE here covers.
        InvalidInputError: the groups and the problem do not have the same parameters.
    """
    kind_of(opt)
    parameters = [[p for p in g["params"] if p.requires_grad] for g in opt.param_groups]
    used = [i for i, group in enumerate(parameters) if group]
    groups = [opt.param_groups[i] for i in used]
    parameters = [parameters[i] for i in used]
    if not groups:
        raise InvalidInputError(
            f"this {type(opt).__name__} has no parameter with requires_grad=True."
        )
    for members in parameters:
        _check_parameters(type(opt).__name__, members)
    if problem is None:
        if len(groups) > 1:
            raise InvalidInputError(
                f"this {type(opt).__name__} has {len(groups)} param groups; pass problem= (of "
                "problem_from_module), which knows where their parameters lie."
            )
        return Binding(groups, parameters, None, None)
    slices_of = getattr(problem, "slices_of", None)
    if slices_of is None:
        raise InvalidInputError(
            f"a {type(problem).__name__} has no module whose parameters the param groups could "
            "have. Pass the problem of problem_from_module(net, ...)."
        )
    slices = [slices_of(members) for members in parameters]
    for where in (s for group in slices for s in group):
        if where.stop == where.start:
            raise InvalidInputError(
                f"a parameter of this {type(opt).__name__} is trained now, but required no "
                "gradient when the problem was made. Make the problem from the net as trained."
            )
    _check_complete(type(opt).__name__, problem, slices)
    return Binding(groups, parameters, slices, problem)


def learning_rates(
    opt: torch.optim.Optimizer, binding: Binding, schedule: Schedule | LRScheduler | None
) -> tuple[float, ScheduledRatio | None]:
    """eta_ref, the largest initial learning rate, and every group's ratio to it over the steps."""
    scheduled = any("initial_lr" in g for g in binding.groups)
    if schedule is None and scheduled:
        raise InvalidInputError(
            f"a learning-rate scheduler is attached to this {type(opt).__name__} (its groups have "
            "an 'initial_lr'). Pass schedule=: the LambdaLR itself, or a function of the step that "
            "gives the factor on the initial learning rates."
        )
    bases = [float(g.get("initial_lr", g["lr"])) for g in binding.groups]
    largest = max(bases)
    if not largest > 0:
        raise InvalidInputError(
            f"{type(opt).__name__}: some learning rate must be > 0; got {bases}. Nothing moves."
        )
    schedules = None if schedule is None else _schedules(opt, binding, schedule)
    ratios = tuple(base / largest for base in bases)
    same = len(set(ratios)) == 1 and (schedules is None or len({id(s) for s in schedules}) == 1)
    if same and schedules is None:
        return largest, None
    if same or binding.problem is None:
        return largest, ScheduledRatio(ratios, schedules, None)
    return largest, ScheduledRatio(ratios, schedules, binding.group_of(), binding.problem.dtype)


def _schedules(
    opt: torch.optim.Optimizer, binding: Binding, schedule: Schedule | LRScheduler
) -> tuple[Schedule, ...]:
    if isinstance(schedule, LambdaLR):
        if schedule.optimizer is not opt:
            raise InvalidInputError("schedule= is the LambdaLR of another optimizer; pass its own.")
        _check_current_rates(binding, schedule, opt)
        of_group = {id(g): f for g, f in zip(opt.param_groups, schedule.lr_lambdas, strict=True)}
        return tuple(cast(Schedule, of_group[id(g)]) for g in binding.groups)
    if isinstance(schedule, LRScheduler) or not callable(schedule):
        raise UnsupportedError(
            f"a {type(schedule).__name__} cannot be read as a function of the step. Pass "
            "schedule=function, which gives the factor on the initial learning rates at a step, or "
            "use torch's LambdaLR."
        )
    return (schedule,) * len(binding.groups)


def _check_current_rates(binding: Binding, scheduler: LambdaLR, opt: torch.optim.Optimizer) -> None:
    """Refuses a LambdaLR that is not stepped with the optimizer, or not alone."""
    epoch = scheduler.last_epoch
    states = (opt.state.get(p, {}) for p in binding.all_parameters)
    counts = {int(s["step"]) for s in states if "step" in s}
    if counts and abs(max(counts) - epoch) > 1:
        raise InvalidInputError(
            f"the LambdaLR was stepped {epoch} times in {max(counts)} optimizer steps. Where it is "
            "stepped once an epoch, pass schedule=lambda step: factor(step // steps_per_epoch)."
        )
    wanted = {
        id(g): float(base) * f(epoch)
        for g, base, f in zip(
            opt.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        )
    }
    for group in binding.groups:
        rate = float(group["lr"])
        if abs(rate - wanted[id(group)]) > 1e-5 * max(abs(rate), abs(wanted[id(group)])):
            raise InvalidInputError(
                f"a group's learning rate is {rate:g}, but its LambdaLR says {wanted[id(group)]:g} "
                f"after {epoch} steps: something else changes it. Pass the whole schedule as "
                "schedule=function."
            )


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


def _check_parameters(name: str, members: list[torch.nn.Parameter]) -> None:
    for parameter in members:
        shape = tuple(parameter.shape)
        if parameter.is_complex():
            raise UnsupportedError(
                f"{name}: a parameter of shape {shape} is complex; view it as real with "
                "torch.view_as_real."
            )
        if parameter.is_sparse or (parameter.grad is not None and parameter.grad.is_sparse):
            raise UnsupportedError(
                f"{name}: a parameter of shape {shape} is sparse or has sparse gradients; use "
                "dense ones (sparse=False in an embedding)."
            )


def _check_complete(name: str, problem: Problem, slices: list[list[slice]]) -> None:
    covered = torch.zeros(problem.dim, dtype=torch.bool)
    for where in (s for group in slices for s in group):
        covered[where] = True
    if bool(covered.all()):
        return
    places: dict[str, slice] = getattr(problem, "parameter_slices", {})
    missing = [n for n, where in places.items() if not bool(covered[where].all())]
    raise InvalidInputError(
        f"{int((~covered).sum())} of the problem's {problem.dim} parameters are in no param group "
        f"of this {name}{': ' + ', '.join(missing) if missing else ''}. Add them (with lr=0 to "
        "keep them), or freeze them with requires_grad_(False) before problem_from_module."
    )
