"""The preconditioner of a live torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Parameter

from sdeverify.base.shapes import Tensor

Root = Callable[[Parameter], Tensor | None]
"""sqrt(v) + eps of a parameter, or None where it has no v yet."""


def preconditioner_root(optimizer: torch.optim.Optimizer) -> Root | None:
    """What a torch RMSprop, Adam or AdamW divides by, as of its last step; None for others.

    sqrt(v) + eps with v corrected for its bias where the optimizer does so. The gradients of the
    next step have no part in it, so they stay unbiased when they are divided by it.
    """
    root_of = _ROOTS.get(type(optimizer))
    if root_of is None:
        return None
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}

    def root(parameter: Parameter) -> Tensor | None:
        state = optimizer.state.get(parameter)
        return root_of(state, group_of[parameter]) if state else None

    return root


def _adam_root(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    correction = 1 - group["betas"][1] ** state["step"]
    return torch.as_tensor(v.div(correction).sqrt_().add_(group["eps"]))


def _rmsprop_root(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    v = state["square_avg"]
    if group["centered"]:
        v = v.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
    return torch.as_tensor(v.sqrt().add_(group["eps"]))


_ROOTS: dict[type[torch.optim.Optimizer], Callable[[dict[str, Any], dict[str, Any]], Tensor]] = {
    torch.optim.Adam: _adam_root,
    torch.optim.AdamW: _adam_root,
    torch.optim.RMSprop: _rmsprop_root,
}
