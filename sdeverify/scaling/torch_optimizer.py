"""A torch optimizer over the same parameters with hyperparameters and state moved by factors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rules import Change
from sdeverify.optimizers.torch_classes import kind_of, trained_groups, values_of, with_values

TorchOptimizer = TypeVar("TorchOptimizer", bound=torch.optim.Optimizer)


def relaxations_of(opt: torch.optim.Optimizer) -> list[float]:
    """1 - beta for each beta (and 1 - mu) of each param group."""
    kind = kind_of(opt)
    groups = [values_of(kind, opt, group) for group in trained_groups(opt)]
    values = [(name, group[name]) for group in groups for name in kind.betas]
    half = Change(relaxation=0.5)
    return [1 - float(v) for name, v in values if kind.moved(name, v, half) is not v]


def without_schedule(optimizer: torch.optim.Optimizer) -> None:
    """Refuses an optimizer that a learning-rate scheduler has been attached to."""
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise UnsupportedError(
            "a learning-rate scheduler is attached to this optimizer; it counts steps, whose "
            "number changes, and cannot be stretched from outside. Make a new scheduler for the "
            "optimizer that comes out of this call, with its step counts divided by kappa "
            "(scale), or LambdaLR(svag.optimizer, svag.stretched(ratio)) (SVAG), and say so with "
            "schedule_stretched=True."
        )


def changed(optimizer: TorchOptimizer, change: Change) -> TorchOptimizer:
    """A new optimizer of the same class over the same parameters; `optimizer` is left as it was.

    State tensors are copied. A scheduler's `initial_lr` moves with the learning rate.

    Raises:
        InvalidInputError: a damped optimizer without a momentum buffer, as torch does not damp
            its very first gradient.
    """
    kind = kind_of(optimizer)
    if change != Change() and (reason := kind.unscalable(optimizer)):
        raise InvalidInputError(reason)
    accepted = inspect.signature(type(optimizer)).parameters
    defaults = _moved(kind, optimizer, optimizer.defaults, change)
    groups = [_with_parameters(_moved(kind, optimizer, g, change)) for g in optimizer.param_groups]
    fresh = type(optimizer)(groups, **{k: v for k, v in defaults.items() if k in accepted})
    components = {theirs: ours for ours, theirs in kind.buffers.items()}
    for parameter, state in optimizer.state.items():
        fresh.state[parameter] = {
            name: change.steps * value
            if name == "step"
            else kind.moved(components.get(name, ""), _copied(value), change)
            for name, value in state.items()
        }
    return fresh


def _moved(
    kind: type[Optimizer], opt: torch.optim.Optimizer, group: Mapping[str, Any], change: Change
) -> dict[str, Any]:
    """A param group (or the defaults) with its hyperparameters moved."""
    moved = dict(group)
    if kind.reads(group):
        values = values_of(kind, opt, group)
        values = {name: kind.moved(name, value, change) for name, value in values.items()}
        moved = with_values(kind, opt, group, values)
    for name in ("lr", "initial_lr"):
        if name in group and change.learning_rate != 1:
            moved[name] = group[name] * change.learning_rate
    return moved


def _with_parameters(group: dict[str, Any]) -> dict[str, Any]:
    """The group as a constructor takes it, named parameters as pairs."""
    names = group.pop("param_names", None)
    parameters = list(group["params"])
    group["params"] = parameters if names is None else list(zip(names, parameters, strict=True))
    return group


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
