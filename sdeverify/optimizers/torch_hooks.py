"""What changes a live run's gradients or steps besides the optimizer: hooks, and replaced steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sdeverify.errors import UnsupportedError

_ADVICE = (
    "What it does to gradients and parameters is in no SDE here, and clipping is not linear in the "
    "gradient. If it only reads, take it off for this call (handle.remove()); else verify a run "
    "without it."
)


def check_hooks(opt: torch.optim.Optimizer) -> None:
    """Refuses hooks on gradients and steps, but this package's own, which only read.

    Raises:
        UnsupportedError: names the hook, or what has replaced the optimizer's step.
    """
    what = f"the step of this {type(opt).__name__}"
    _check(what, "register_step_pre_hook", opt._optimizer_step_pre_hooks)
    _check(what, "register_step_post_hook", opt._optimizer_step_post_hooks)
    _check(what, "register_optimizer_step_pre_hook", _global_optimizer_pre_hooks)
    _check(what, "register_optimizer_step_post_hook", _global_optimizer_post_hooks)
    replaced = vars(opt).get("step")
    if replaced is not None and not _is_scheduled(replaced, opt):
        raise UnsupportedError(
            f"{what} was replaced by {_name(replaced)}, which may do anything. Verify a run with "
            "the step of the torch class."
        )
    for parameter in (p for group in opt.param_groups for p in group["params"]):
        if parameter.requires_grad:
            _check_gradient(parameter)


def _check_gradient(parameter: torch.nn.Parameter) -> None:
    what = f"a parameter of shape {tuple(parameter.shape)}"
    for attribute, registered in (
        ("_backward_hooks", "register_hook"),
        ("_post_accumulate_grad_hooks", "register_post_accumulate_grad_hook"),
    ):
        _check(what, registered, getattr(parameter, attribute, None))


def _is_scheduled(step: Callable[..., Any], opt: torch.optim.Optimizer) -> bool:
    """Whether this is the class's own step in the wrapper that a scheduler puts around it."""
    own = _name(step) == _name(type(opt).step)
    return own and hasattr(step, "_wrapped_by_lr_sched")


def _check(what: str, registered: str, hooks: Mapping[int, Callable[..., Any]] | None) -> None:
    """Refuses the hooks that the user or another package has registered."""
    ours = __name__.split(".")[0]
    for hook in (hooks or {}).values():
        if str(getattr(_unwrapped(hook), "__module__", "")).split(".")[0] != ours:
            raise UnsupportedError(f"{what} has the hook {_name(hook)} ({registered}). {_ADVICE}")


def _unwrapped(hook: Callable[..., Any]) -> Callable[..., Any]:
    return hook.func if isinstance(hook, partial) else hook


def _name(hook: Callable[..., Any]) -> str:
    plain = _unwrapped(hook)
    return str(getattr(plain, "__qualname__", type(plain).__qualname__))
