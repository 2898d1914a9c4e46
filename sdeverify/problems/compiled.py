"""Gradients and moments in compiled form, made once for each shape of the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from sdeverify.compiling import compiled
from sdeverify.errors import UnsupportedError
from sdeverify.problems.general import GradientRoute, MomentsRoute
from sdeverify.problems.problem import WeightedMoments
from sdeverify.problems.samples import Batch
from sdeverify.shapes import Float, Tensor

Kernel = Callable[[Tensor, Tensor, Batch], Any]
"""(theta, weights, batch) -> a tensor, or a named tuple of tensors; a sum over samples."""

ROW = 16
"""Pieces are multiples of so many samples, so that rows of numbers begin where a vector does."""
MOST = 4
"""At most so many pieces of the samples stand in one kernel, each compiled anew."""


class CompiledGradient:
    """A `GradientRoute`, compiled.

    Args:
        route: what is compiled.
        sample: bytes that a backward pass keeps for each sample.
    """

    def __init__(self, route: GradientRoute, sample: int) -> None:
        self.name, self.copies, self.together = route.name, route.copies, route.together
        self.piece = route.piece
        self._kernel = Compiled(route.weighted, sample, route.piece)

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
    """A `MomentsRoute`, compiled.

    Args:
        route: what is compiled.
        sample: bytes that a backward pass keeps for each sample.
    """

    def __init__(self, route: MomentsRoute, sample: int) -> None:
        self.name, self.copies, self.together = route.name, route.copies, route.together
        self.piece, self.alone, self.formed = route.piece, route.alone, route.formed
        self._kernel = Compiled(route.sums, sample, route.piece)

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

    Its samples are taken in pieces that stay in the cache, one after the other.

    Args:
        kernel: what is compiled.
        sample: bytes that a backward pass keeps for each sample.
        piece: bytes that are to be kept at a time.

    Raises:
        UnsupportedError: it cannot be traced or compiled, or gives other numbers than the kernel.
    """

    def __init__(self, kernel: Kernel, sample: int, piece: int) -> None:
        self._kernel, self._sample, self._piece = kernel, sample, piece
        self._ready: dict[tuple[object, ...], Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, theta: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        data, structure = pytree.tree_flatten(batch.data)
        given = [x.detach().contiguous() for x in (theta, weights, *data)]
        key = (batch.shared, *(x.shape for x in given))
        if key not in self._ready:
            self._ready[key] = self._compile(structure, batch.shared, given)
        with torch.no_grad():
            return self._ready[key](*given)

    def _compile(
        self, structure: pytree.TreeSpec, shared: bool, given: list[Tensor]
    ) -> Callable[..., tuple[Tensor, ...]]:
        axis = 0 if shared else 1
        parts = self._parts(*given[1].shape)

        def summed(theta: Tensor, weights: Tensor, *data: Tensor) -> tuple[Tensor, ...]:
            total: tuple[Tensor, ...] = ()
            for start, size in parts:
                own = [x.narrow(axis, start, size) for x in data]
                batch = Batch(pytree.tree_unflatten(own, structure), shared)
                found = self._kernel(theta, weights.narrow(1, start, size), batch)
                sums = (found,) if isinstance(found, Tensor) else tuple(found)
                total = tuple(map(torch.add, total, sums)) if total else sums
            return total

        try:
            return compiled(summed, given)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"the problem's gradients: {error} Use compiled=False."
            ) from error

    def _parts(self, replicas: int, samples: int) -> list[tuple[int, int]]:
        """First sample and number of samples of each piece."""
        held = replicas * samples * self._sample
        pieces = min(MOST, max(1, round(held / self._piece)), samples)
        each = -(-samples // pieces // ROW) * ROW
        return [(i, min(each, samples - i)) for i in range(0, samples, each)]
