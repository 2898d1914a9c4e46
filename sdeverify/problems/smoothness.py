"""Whether a problem's losses are smooth in the parameters, read from the operations they use."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdeverify.problems.problem import Problem

KINKS = frozenset(
    [
        *("abs", "aminmax", "amax", "amin", "argmax", "clamp", "clamp_max", "clamp_min"),
        *("hardshrink", "hardsigmoid", "hardswish", "hardtanh", "huber_loss", "leaky_relu", "max"),
        *("max_pool2d_with_indices", "max_pool3d_with_indices", "maximum", "median", "min"),
        *("minimum", "multi_margin_loss", "multilabel_margin_loss_forward", "prelu", "relu"),
        *("rrelu_with_noise", "sign", "smooth_l1_loss", "softshrink", "sort", "threshold", "topk"),
    ]
)
"""aten's operations that have a kink or a jump, or a jump in the second derivative."""


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names.add(func.overloadpacket.__name__.rstrip("_"))
        return func(*args, **(kwargs or {}))


def kinks(problem: Problem, theta: torch.Tensor) -> list[str]:
    """The operations with kinks that the losses go through at theta `(replica, param)`.

    A smooth function that is written with such an operation may be listed too.
    """
    with torch.no_grad():
        problem.losses(theta)  # what is set up at the first call is not recorded
        with _Recorder() as recorder:
            problem.losses(theta)
    return sorted(recorder.names & KINKS)
