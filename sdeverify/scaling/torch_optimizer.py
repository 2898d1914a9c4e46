"""A torch optimizer over the same parameters with hyperparameters and state moved by factors."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.scaling.rules import Change

TorchOptimizer = TypeVar("TorchOptimizer", bound=torch.optim.Optimizer)


def kind_of(optimizer: torch.optim.Optimizer) -> type[Optimizer]:
    """Our class for a torch optimizer.

    Raises:
        InvalidInputError: this is no torch optimizer.
        UnsupportedError: a class or an option that no SDE covers.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidInputError(
            f"a torch.optim optimizer is wanted here; got {type(optimizer).__name__}. Pass the "
            "optimizer that the training loop calls step() on."
        )
    kinds = {_kind_of_group(optimizer, group) for group in optimizer.param_groups}
    if len(kinds) != 1:
        raise UnsupportedError(
            "some param groups have momentum and some have none; their SDEs have different clocks. "
            "Use one optimizer for each, or momentum in all groups."
        )
    return kinds.pop()


def _kind_of_group(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> type[Optimizer]:
    name = type(optimizer).__name__
    if type(optimizer) is torch.optim.SGD:
        return SGDMomentum if group["momentum"] else SGD
    if type(optimizer) is torch.optim.RMSprop:
        if group["centered"] or group["momentum"]:
            raise UnsupportedError(
                f"{name} with centered=True or with momentum has no SDE here. Use plain RMSprop."
            )
        return RMSprop
    if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
        if group["amsgrad"]:
            raise UnsupportedError(f"{name} with amsgrad=True has no SDE here. Use amsgrad=False.")
        return Adam
    raise UnsupportedError(
        f"torch.optim's SGD, RMSprop, Adam and AdamW can be scaled; got {type(optimizer).__name__}."
    )


def relaxations_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """1 - beta for each beta (and 1 - mu) of each param group."""
    found = []
    for group in optimizer.param_groups:
        betas = [*group.get("betas", ()), *(group[n] for n in ("alpha",) if n in group)]
        if type(optimizer) is torch.optim.SGD and group["momentum"]:
            betas.append(group["momentum"])
        found += [1 - float(beta) for beta in betas]
    return found


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
    if change != Change():
        _refuse_undamped_first_step(optimizer)
    accepted = inspect.signature(type(optimizer)).parameters
    defaults = {
        k: v for k, v in _moved(optimizer.defaults, optimizer, change).items() if k in accepted
    }
    groups = [_with_parameters(_moved(g, optimizer, change)) for g in optimizer.param_groups]
    fresh = type(optimizer)(groups, **{k: v for k, v in defaults.items() if k in accepted})
    factors = {
        "momentum_buffer": change.buffer,
        "square_avg": change.second_moment,
        "exp_avg_sq": change.second_moment,
        "step": change.steps,
    }
    for parameter, state in optimizer.state.items():
        fresh.state[parameter] = {
            name: _times(value, factors.get(name, 1.0)) for name, value in state.items()
        }
    return fresh


def _moved(
    group: dict[str, Any], optimizer: torch.optim.Optimizer, change: Change
) -> dict[str, Any]:
    """A param group (or the defaults) with its hyperparameters moved."""
    moved = dict(group)
    for name in ("lr", "initial_lr"):
        if name in group and change.learning_rate != 1:
            moved[name] = group[name] * change.learning_rate
    if "eps" in group and change.epsilon != 1:
        moved["eps"] = group["eps"] * change.epsilon
    if "betas" in group:
        moved["betas"] = tuple(change.relaxed(beta) for beta in group["betas"])
    if "alpha" in group:
        moved["alpha"] = change.relaxed(group["alpha"])
    if type(optimizer) is torch.optim.SGD and group["momentum"]:
        moved["momentum"] = change.relaxed(group["momentum"])
    decoupled = group.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)
    if decoupled and change.decoupled_weight_decay != 1:
        moved["weight_decay"] = group["weight_decay"] * change.decoupled_weight_decay
    return moved


def _with_parameters(group: dict[str, Any]) -> dict[str, Any]:
    """The group as a constructor takes it, named parameters as pairs."""
    names = group.pop("param_names", None)
    parameters = list(group["params"])
    group["params"] = parameters if names is None else list(zip(names, parameters, strict=True))
    return group


def _times(value: Any, factor: float) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.clone() if factor == 1 else value * factor


def _refuse_undamped_first_step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        damped = group.get("dampening", 0) and group.get("momentum", 0)
        empty = any(
            optimizer.state.get(p, {}).get("momentum_buffer") is None for p in group["params"]
        )
        if damped and empty:
            raise InvalidInputError(
                "a damped run is rescaled from a state with a buffer, as torch does not damp its "
                "first gradient; this optimizer has none. Take a step first, or dampening=0."
            )
