"""What stands between two linear layers of a chain: stages without parameters, and their slopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from sdeverify.base.shapes import Float, Tensor


class Activation(NamedTuple):
    """A stage's output, and the way of a signal back through it."""

    output: Float[Tensor, "replica out n"]
    backward: Callable[[Tensor], Tensor]


Stage = Callable[[Float[Tensor, "replica in n"]], Activation]
"""Passes a stage, whose input may be overwritten; so may be the signal that comes back."""


def stage_of(modules: nn.Sequential) -> Stage:
    """The stage in its written-out form where there is one, else by autograd."""
    kind = type(modules[0]) if len(modules) == 1 else None
    if kind is nn.Tanh:
        return _tanh
    if kind is nn.ReLU:
        return _relu
    return Recorded(modules)


def _tanh(z: Tensor) -> Activation:
    h = z.tanh_()
    slope = torch.ops.aten.tanh_backward.grad_input
    return Activation(h, lambda signal: slope(signal, h, grad_input=signal))


def _relu(z: Tensor) -> Activation:
    h = z.relu_()
    slope = torch.ops.aten.threshold_backward.grad_input
    return Activation(h, lambda signal: slope(signal, h, 0, grad_input=signal))


@dataclass(frozen=True)
class Recorded:
    """Any modules on `(replica * n, in)`, differentiated by autograd."""

    modules: nn.Sequential

    def __call__(self, z: Tensor) -> Activation:
        replicas, width, n = z.shape
        with torch.enable_grad():
            rows = z.mT.reshape(-1, width).requires_grad_()
            h = self.modules(rows)

        def backward(signal: Tensor) -> Tensor:
            seed = signal.mT.reshape(h.shape)
            (found,) = torch.autograd.grad(h, rows, seed, materialize_grads=True)
            return found.view(replicas, n, width).mT

        return Activation(h.detach().view(replicas, n, -1).mT, backward)
