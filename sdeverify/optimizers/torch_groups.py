"""The param groups of a live torch optimizer: what they say, and where their parameters lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdeverify.base.shapes import Int, PerParameter, Tensor
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.torch_classes import kind_of
from sdeverify.problems.problem import Problem


@dataclass(frozen=True)
class Binding:
    """The parameters of each group and their slices of theta; slices are None without a problem.

    Args:
        step_counts: the different numbers of steps that the parameters have counted.
    """

    groups: list[dict[str, Any]]
    parameters: list[list[torch.nn.Parameter]]
    step_counts: list[float]
    slices: list[list[slice]] | None = None
    problem: Problem | None = None

    @property
    def steps_counted(self) -> int | None:
        """The steps that the optimizer has counted; None where it counts none."""
        whole = len(self.step_counts) == 1 and self.step_counts[0].is_integer()
        return int(self.step_counts[0]) if whole else None

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
    states = [opt.state.get(p, {}) for members in parameters for p in members]
    counts = sorted({float(s["step"]) for s in states if "step" in s})
    if problem is None:
        if len(groups) > 1:
            raise InvalidInputError(
                f"this {type(opt).__name__} has {len(groups)} param groups; pass problem= (of "
                "problem_from_module), which knows where their parameters lie."
            )
        return Binding(groups, parameters, counts)
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
    return Binding(groups, parameters, counts, slices, problem)


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
