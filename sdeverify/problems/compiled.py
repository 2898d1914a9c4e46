"""Gradients and moments compiled by `torch.compile`, once for each shape of the work.

A kernel is traced with everything that it does, its backward pass included, into one graph of
tensor operations. Random numbers are its inputs: they are drawn outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from sdeverify.errors import UnsupportedError
from sdeverify.problems.general import GradientRoute, MomentsRoute
from sdeverify.problems.problem import WeightedMoments
from sdeverify.problems.samples import Batch
from sdeverify.shapes import Float, Tensor

Kernel = Callable[[Tensor, Tensor, Batch], Any]
"""(theta, weights, batch) -> a tensor, or a named tuple of tensors."""


OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"layout_optimization": False}
"""Convolutions have their layout already; a second choice of it made them slower."""


class CompiledGradient:
    """A `GradientRoute`, compiled."""

    def __init__(self, route: GradientRoute) -> None:
        self.name, self.copies, self.together = route.name, route.copies, route.together
        self._kernel = Compiled(route.weighted)

    def weighted(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> Float[Tensor, "replica param"]:
        """sum_i w_i grad l_i."""
        (found,) = self._kernel(theta, weights, batch)
        return found


class CompiledMoments:
    """A `MomentsRoute`, compiled."""

    def __init__(self, route: MomentsRoute) -> None:
        self.name, self.copies, self.together = route.name, route.copies, route.together
        self.alone, self.formed = route.alone, route.formed
        self._kernel = Compiled(route.sums)

    def sums(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        return WeightedMoments(*self._kernel(theta, weights, batch))


class Compiled:
    """A kernel that is compiled for each new shape of its arguments, and compared on its first use.

    Raises:
        UnsupportedError: it cannot be traced or compiled, or gives other numbers than the kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._ready: dict[tuple[object, ...], Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, theta: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        data, structure = pytree.tree_flatten(batch.data)
        given = [x.detach().contiguous() for x in (theta, weights, *data)]
        key = (batch.shared, *(x.shape for x in given))
        with torch.no_grad():
            if key in self._ready:
                return self._ready[key](*given)

            def flat(theta: Tensor, weights: Tensor, *data: Tensor) -> tuple[Tensor, ...]:
                own = Batch(pytree.tree_unflatten(list(data), structure), batch.shared)
                found = self._kernel(theta, weights, own)
                return (found,) if isinstance(found, Tensor) else tuple(found)

            self._ready[key] = compiled(flat, given)
            return self._ready[key](*given)


def compiled(
    function: Callable[..., tuple[Tensor, ...]], examples: list[Tensor]
) -> Callable[..., tuple[Tensor, ...]]:
    """The function compiled for arguments of these shapes, after a comparison on the examples."""
    try:
        fast = torch.compile(
            make_fx(function)(*examples), fullgraph=True, dynamic=False, options=OPTIONS
        )
        got = fast(*examples)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UnsupportedError(
            f"this problem's gradients cannot be compiled ({reason}). Use compiled=False."
        ) from error
    for fine, want in zip(got, function(*examples), strict=True):
        bound = torch.finfo(want.dtype).eps ** 0.5 * want.abs().max()
        if not bool((fine - want).abs().max() <= bound):
            raise UnsupportedError(
                "the compiled gradients differ from the plain ones by "
                f"{float((fine - want).abs().max()):.3g}. Use compiled=False."
            )
    return fast
