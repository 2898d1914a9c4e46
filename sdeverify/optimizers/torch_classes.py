"""Which class of ours a live torch optimizer is, and its hyperparameters in both languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.optimizer import Optimizer, Option
from sdeverify.optimizers.torch_hooks import check_hooks


def optimizer_classes() -> list[type[Optimizer]]:
    """All optimizers there are, a user's own among them: the classes that name torch classes."""
    every: Any = Optimizer
    return [kind for kind in _derived(every) if "torch_classes" in vars(kind)]


def kind_of(opt: Any) -> type[Optimizer]:
    """Our class for a torch optimizer, by its exact type and its param groups.

    Raises:
        InvalidInputError: this is no torch optimizer.
        UnsupportedError: a class or an option that no SDE covers, or groups of different kinds.
    """
    wraps = _wrapped(opt)
    if not isinstance(opt, torch.optim.Optimizer):
        raise InvalidInputError(
            f"a torch.optim optimizer is wanted here; got {type(opt).__name__}. "
            f"{wraps or 'Pass the optimizer that the training loop calls step() on.'}"
        )
    check_hooks(opt)
    candidates = [kind for kind in optimizer_classes() if type(opt) in kind.torch_classes]
    if not candidates:
        raise _unknown(opt)
    kinds = [_kind_of_group(opt, candidates, group) for group in trained_groups(opt)]
    if len(set(kinds)) > 1:
        raise UnsupportedError(
            f"{type(opt).__name__}: some param groups only are {kinds[0].name} (in order they are "
            f"{', '.join(kind.name for kind in kinds)}); their SDEs have different clocks, and one "
            "run has one. Give all groups the same options, or verify them one by one."
        )
    return kinds[0]


def trained_groups(opt: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The param groups with a parameter that requires a gradient; all of them where none has."""
    trained = [g for g in opt.param_groups if any(p.requires_grad for p in g["params"])]
    return trained or list(opt.param_groups)


def values_of(
    kind: type[Optimizer], opt: torch.optim.Optimizer, group: Mapping[str, Any]
) -> dict[str, Any]:
    """Our hyperparameters that a param group, or the defaults, hold; the learning rate is apart."""
    return {name: _value(group, o) for name, o in kind.options_of(opt, group).items()}


def with_values(
    kind: type[Optimizer],
    opt: torch.optim.Optimizer,
    group: Mapping[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """The param group, or the defaults, with other values of our hyperparameters."""
    moved = dict(group)
    for name, option in kind.options_of(opt, group).items():
        set_option(moved, option, values[name])
    return moved


def set_option(group: dict[str, Any], option: Option, value: Any) -> None:
    """Sets one option of a param group."""
    if isinstance(option, str):
        group[option] = value
    else:
        name, index = option
        group[name] = tuple(value if i == index else v for i, v in enumerate(group[name]))


def _derived(kind: type[Optimizer]) -> Iterator[type[Optimizer]]:
    for derived in kind.__subclasses__():
        yield derived
        yield from _derived(derived)


def _kind_of_group(
    opt: torch.optim.Optimizer, candidates: Sequence[type[Optimizer]], group: Mapping[str, Any]
) -> type[Optimizer]:
    """The class that reads the group; of several the one that is derived from all the others."""
    reading = {(k.__module__, k.__qualname__): k for k in candidates if k.reads(group)}
    if not reading:
        named = ", ".join(kind.__name__ for kind in candidates)
        raise UnsupportedError(f"no param group such as this is read by {named}: {dict(group)}.")
    kinds = list(reading.values())  # a class that is defined again replaces the first
    most_derived = [kind for kind in kinds if all(issubclass(kind, other) for other in kinds)]
    if not most_derived:
        named = ", ".join(kind.__name__ for kind in kinds)
        raise UnsupportedError(
            f"{type(opt).__name__} is read by {named}, which do not derive from one another. Name "
            "it in the torch_classes of one of them, or let their `reads` tell the groups apart."
        )
    for option, reason in most_derived[0].refused.items():
        if group.get(option):
            name = f"{type(opt).__name__}({option}={group[option]})"
            raise UnsupportedError(f"{name}: {reason}.")
    return most_derived[0]


def _value(group: Mapping[str, Any], option: Option) -> Any:
    return group[option] if isinstance(option, str) else group[option[0]][option[1]]


def _wrapped(opt: Any) -> str:
    """The torch optimizer that an object has inside, and what to pass; empty where it has none."""
    for name, inner in vars(opt).items() if hasattr(opt, "__dict__") else ():
        if isinstance(inner, torch.optim.Optimizer):
            return (
                f"It wraps {type(inner).__name__}: pass .{name}, provided that the wrapper's "
                "step is that of the optimizer inside (no clipping, no averaging, one step a call)."
            )
    return ""


def _unknown(opt: torch.optim.Optimizer) -> UnsupportedError:
    known = {torch_class for kind in optimizer_classes() for torch_class in kind.torch_classes}
    names = ", ".join(sorted(torch_class.__name__ for torch_class in known))
    what = f"{type(opt).__module__}.{type(opt).__name__}"
    if wraps := _wrapped(opt):
        return UnsupportedError(f"{what} is not supported. {wraps}")
    own = "write an sdeverify.Optimizer for it, one small file that names it in torch_classes"
    if isinstance(opt, tuple(known)):
        return UnsupportedError(
            f"{what} may change the step of the torch class it extends. Supported are {names} "
            f"themselves, or {own}."
        )
    return UnsupportedError(f"{what} is not supported; {names} are. For another one {own}.")
